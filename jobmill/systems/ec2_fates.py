"""What became of instances that jobs ran on: EC2 says it by their state, or, much later, by knowing them no more.

EC2 shows an ended instance for an hour. One that a look by our tags does not show may have lost its tags, so it is
asked for by its id; and that nobody knows it has to last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jobmill.systems.ec2_instance import GONE, Instance

LASTS = 60.0  # seconds for which EC2 has to know nothing of an instance


class Fates:
    """Of the instances that somebody asked for. Not locked: the fleet does that."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shown: Mapping[str, Instance] = {}
        self._strays: Mapping[str, Instance] = {}  # that EC2 shows by their ids alone
        self._missing: dict[str, float] = {}  # asked for, and not shown; since when nothing is known of it
        self._proved: set[str] = set()  # of which nothing was known for long

    def wanted(self, shown: Mapping[str, Instance]) -> Sequence[str]:
        """Return the ids that EC2 is to be asked for, since a look did not show them."""
        return [id_ for id_ in self._missing if id_ not in shown]

    def note(self, shown: Mapping[str, Instance], asked: Sequence[str], strays: Mapping[str, Instance]) -> None:
        """Take a look, and what EC2 knows of the ``asked``."""
        at = self._clock()
        self._shown, self._strays = shown, strays
        self._missing = {id_: at if id_ in strays else t for id_, t in self._missing.items() if id_ not in shown}
        gone = [id_ for id_ in asked if at - self._missing.get(id_, at) >= LASTS]
        self._proved.update(gone)
        for id_ in gone:
            del self._missing[id_]

    def of(self, id_: str) -> str | None:
        """Return ``preempted`` or ``node_fail`` for an instance that is proved to be gone, else None."""
        it = self._shown.get(id_)
        if it is None and id_ in self._proved:
            return "node_fail"
        if it is None:
            self._missing.setdefault(id_, self._clock())
            it = self._strays.get(id_)
        if it is None or it.state not in GONE:
            return None
        return "preempted" if it.taken_away else "node_fail"

    def words(self, id_: str) -> str:
        """Return what EC2 says of why it is as it is; empty: nothing."""
        it = self._shown.get(id_)
        if it is None and (it := self._strays.get(id_)) is not None and it.state not in GONE:
            return f"it is {it.state}, and somebody has removed our tags"
        return "" if it is None else it.words or it.reason or it.state
