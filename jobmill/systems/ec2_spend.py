"""What a fleet has cost in the last 24 hours, counted so that it is never too little.

EC2 shows an ended instance for about an hour only, so what was seen is also kept in a file. Losing the file loses no
instance: the ceiling of a day then forgets what EC2 does not show any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from jobmill.systems.ec2_instance import PAID, Instance

DAY = 86400.0
LEAST = 60.0  # seconds that EC2 counts at least (https://aws.amazon.com/ec2/pricing/on-demand/)
SHOWN = 3600.0  # seconds for which EC2 shows an ended instance, about
KEEP = 300.0  # seconds between two notes that an instance still lives


@dataclass(kw_only=True)
class Paid:
    """One instance as the file knows it; times are Unix seconds."""

    id: str
    type: str
    launched: float
    seen: float  # the last time at which it was there
    ended: float | None = None
    spot: bool = False


class Spend:
    """Notes instances, and adds up. For the one process that leads the fleet."""

    def __init__(self, file: Path) -> None:
        """``file`` need not exist; what cannot be read in it is passed over."""
        self._file = file
        self._paid: dict[str, Paid] = {}
        try:
            lines = file.read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                one = Paid(**json.loads(line))
                if min(one.launched, one.seen, one.ended or 0.0) >= 0:
                    self._paid[one.id] = one  # the last line of an instance counts
            except (ValueError, TypeError):
                continue  # torn by a crash: EC2 tells it again, or the line before does

    def note(self, instances: Iterable[Instance], now: float) -> None:
        """Take one complete look at EC2; raise OSError when the file cannot be written."""
        lines: list[str] = []
        there = {it.id: it for it in instances}
        for it in there.values():
            one = self._paid.get(it.id)
            paid = it.state in PAID
            ended = None if paid else it.ended or (one.ended if one and one.ended else now)
            if one is None or one.ended != ended or (paid and now - one.seen >= KEEP):
                one = Paid(id=it.id, type=it.type, launched=it.launched, seen=now, ended=ended, spot=it.spot)
                self._paid[it.id] = one
                lines.append(json.dumps(one.__dict__))
        for id_ in [id_ for id_, one in self._paid.items() if self._until(one, now, id_ in there) < now - DAY]:
            del self._paid[id_]
        if lines:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._file.exists() and self._file.stat().st_size > 1 << 20:
                self._compact()
            else:
                with self._file.open("a") as file:
                    file.write("".join(f"{line}\n" for line in lines))

    def spent(self, now: float, there: Iterable[str], price: Callable[[str, bool], float]) -> float:
        """Return the dollars of the last 24 hours; ``there``: the ids of the last look."""
        shown, dollars = set(there), 0.0
        for one in self._paid.values():
            until = max(self._until(one, now, one.id in shown), one.launched + LEAST)
            hours = max(0.0, until - max(one.launched, now - DAY)) / 3600
            dollars += hours * price(one.type, one.spot)
        return dollars

    @staticmethod
    def _until(one: Paid, now: float, shown: bool) -> float:
        """Return until when it has cost: one that vanished between two looks lived as long as it may have."""
        return one.ended if one.ended is not None else now if shown else min(now, one.seen + KEEP + SHOWN)

    def _compact(self) -> None:
        new = self._file.with_name(self._file.name + ".new")
        new.write_text("".join(f"{json.dumps(one.__dict__)}\n" for one in self._paid.values()))
        new.replace(self._file)
