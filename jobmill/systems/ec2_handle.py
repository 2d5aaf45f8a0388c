"""A handle of the `ec2` system: ``<since>@<region>+<leader>/<token>``.

It names no instance, since they come and go, but where to look for one: in another region nobody knows it, which proves
nothing. ``leader`` is drawn by the process that launches, so that two machines which began in the same second have
each its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobmill.systems.system import Handle, Token


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What stands in front of the token: who launched, and where."""

    since: int  # Unix time, seconds; the leader launched nothing before
    region: str = ""  # as the configuration says it; empty: it does not
    leader: str = ""

    def __str__(self) -> str:
        return f"{self.since}@{self.region}+{self.leader}"

    @classmethod
    def of(cls, handle: Handle) -> Origin:
        """Read a handle; what is none has the origin of all, the beginning of time."""
        since, _, rest = handle.partition("/")[0].partition("@")
        region, _, leader = rest.partition("+")
        return cls(since=int(since) if since.isdecimal() else 0, region=region, leader=leader)


def token_of(handle: Handle) -> Token:
    """Return the token of a handle."""
    return handle.partition("/")[2]
