"""`points.txt`: every point, and in which roles the sweep has killed it there.

<name>  <role> <role>           each role in which a process was killed at this point, and everything was right after
<name>  unreached  # <why>      no workload gets there
<name>  missed  # <why>         somebody passes there, and never when it was to die there
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("points.txt")
UNREACHED, MISSED = "unreached", "missed"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the file."""

    roles: frozenset[str] = field(default=frozenset())
    missed: bool = False
    why: str = ""  # nobody gets there


def read(file: Path = FILE) -> dict[str, Row]:
    """Return what the file says, by the names of points, in its order."""
    rows = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        words, _, why = line.partition("  # ")
        name, _, roles = words.partition("  ")
        said = frozenset(roles.split())
        rows[name] = Row(roles=said - {UNREACHED, MISSED}, missed=MISSED in said, why=why)
    return rows


def write(
    names: Collection[str], killed: Mapping[str, Collection[str]], passed: Collection[str], file: Path = FILE
) -> None:
    """Write all points; what was killed before stays so as long as the point is there.

    ``passed``: what somebody passed undisturbed, now.
    """
    before = read(file)
    lines = []
    for name in names:
        row = before.get(name, Row())
        roles = " ".join(sorted(row.roles | set(killed.get(name, ()))))
        word = MISSED if row.missed or name in passed else UNREACHED
        why = f"  # {row.why}" if row.why and not roles else ""
        lines.append(f"{name}  {roles or word}{why}\n")
    file.write_text("".join(lines))
