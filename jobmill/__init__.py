"""jobmill runs YAML jobs from a Redis queue wherever they belong, never twice and never lost.

This file stays free of imports: the runner, which also serves hosts that have nothing but Python 3.6,
lives below this package.
"""

__version__ = "0.1.0"


def __getattr__(name):  # type: ignore[no-untyped-def]
    """Import the client only when somebody asks for it (PEP 562)."""
    if name == "Client":
        from jobmill.client import Client

        return Client
    raise AttributeError("module 'jobmill' has no attribute " + repr(name))
