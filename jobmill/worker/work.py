"""The contract of a worker's work: what the loop calls, and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from jobmill.ledger.admission import Batch
from jobmill.ledger.exchange import Call
from jobmill.ledger.membership import Membership


class Work(ABC):
    """What one kind of worker does. Single-threaded; any call may raise TransientError: the loop calls again later."""

    role: ClassVar[str]
    lane: str = ""
    digest: str = ""
    lease: float = 10.0  # seconds of a launch under way, renewed by the heartbeat

    @abstractmethod
    def queues(self) -> Sequence[str]:
        """Return the lists that this worker takes from."""

    def wants(self, queue: str) -> bool:
        """Tell whether to take from this list now (back-pressure says no)."""
        return True

    def enter(self, member: Membership) -> None:
        """Begin to act under this registration: at the start, and anew after an eviction."""

    @abstractmethod
    def taking(self, queue: str) -> Call[Batch]:
        """Return how this worker looks at the head of its private list."""

    @abstractmethod
    def ring(self, queue: str, batch: Batch | None = None) -> int:
        """Deal with the head of the private list, which may have been looked at; return how many entries there were."""

    def filenos(self) -> Sequence[int]:
        """Return the descriptors, besides the lists, that wake this worker."""
        return ()

    def readable(self) -> None:
        """One of the descriptors has something. Must not speak to Redis: it is called during an outage as well."""

    def flush(self, now: float) -> float | None:
        """Do what was gathered; return in how many seconds there is more to do, or None."""
        return None

    def starting(self) -> Sequence[str]:
        """Return the ids of launches whose leases the heartbeat renews."""
        return ()

    def wished(self, wishes: Mapping[str, str]) -> None:
        """Users wish these launches (id -> wish) to end."""

    def tick(self, now: float) -> None:
        """Do what has to be done about once a second."""

    def close(self) -> None:
        """Stop taking; give descriptors back. What runs goes on."""
