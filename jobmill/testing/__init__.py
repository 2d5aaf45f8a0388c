"""For authors of execution systems: the suite that every one of them has to pass (docs/conformance.md).

from jobmill.testing import Conformance

class TestMine(Conformance):
    def make(self, spool): return MySystem.build("mine", {...}, spool)
"""

import importlib.util
import sys

for _name in ("pytest", "pytest_timeout"):
    if importlib.util.find_spec(_name) is None:
        raise ModuleNotFoundError(
            f"jobmill.testing needs the package '{_name.replace('_', '-')}', which is not installed; "
            f"do: {sys.executable} -m pip install 'jobmill[testing]'",
            name=_name,
        )

import pytest  # noqa: E402

_PARTS = (
    "batches",
    "commands",
    "contract",
    "crashes",
    "kills",
    "launches",
    "lives",
    "looks",
    "outcomes",
    "stages",
    "subject",
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # first: a failure shows the values

from jobmill.testing.conformance import Conformance  # noqa: E402
from jobmill.testing.launches import Launches  # noqa: E402

__all__ = ["Conformance", "Launches"]
