"""Claims on slots of a fleet, of launches whose inputs are brought before they can be placed.

A claim lasts as long as somebody renews it: whoever stages the inputs, then the line in which the launch waits. So one
that is forgotten, in whatever way, keeps no instance for longer than `HOLD`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobmill.systems.ec2_plan import Want

HOLD = 90.0  # seconds without a renewal; longer than staging may stand still (`jobmill.worker.carriers.STUCK`)


@dataclass(kw_only=True)
class Claim:
    """Of one launch."""

    want: Want
    host: str | None  # None: it waits for a free slot, and wants an instance like others that wait
    until: float


class Claims:
    """By token. Not locked: the fleet does that."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._claims: dict[str, Claim] = {}

    def make(self, token: str, want: Want) -> bool:
        """Make or renew a claim; True when it is new."""
        self._expire()
        known = self._claims.get(token)
        host = known.host if known is not None else None
        self._claims[token] = Claim(want=want, host=host, until=self._clock() + HOLD)
        return known is None

    def renew(self, token: str) -> None:
        """Keep a claim for longer, if there is one."""
        self._expire()
        if token in self._claims:
            self._claims[token].until = self._clock() + HOLD

    def drop(self, token: str) -> None:
        """It is placed, or not wanted any more."""
        self._claims.pop(token, None)

    def put(self, token: str, host: str | None) -> None:
        """Keep slots of a host for it; None: of none yet."""
        self._claims[token].host = host

    def host(self, token: str) -> str | None:
        """Return the host that keeps slots for it."""
        return self._claims[token].host if token in self._claims else None

    def kept(self, host: str, but: str = "") -> int:
        """Return the slots that a host keeps, without those for the launch ``but``."""
        self._expire()
        return sum(it.want.slots for token, it in self._claims.items() if it.host == host and token != but)

    def waiting(self) -> Sequence[Want]:
        """Return what waits for a free slot."""
        self._expire()
        return [it.want for it in self._claims.values() if it.host is None]

    def _expire(self) -> None:
        at = self._clock()
        self._claims = {token: it for token, it in self._claims.items() if it.until > at}
