"""The kinds of system that are installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobmill.errors import JobmillError
from jobmill.rules.site import load_site_plugins
from jobmill.screen import table, terminal
from jobmill.screen.table import Cell, Column
from jobmill.systems.kinds import Kind, installed_kinds

COLUMNS = (
    Column("KIND"),
    Column("PACKAGE", cut=True, least=10),
    Column("CLASS"),
    Column("WHAT IT IS", cut=True, least=16),
)


def show_kinds(source: Path | None, *, as_json: bool) -> int:
    """Write every kind, and what those lack that cannot be used; return 1 when there is one of them.

    ``source``: the configuration, beside which the site's plug-ins are; it is not read.
    """
    broken = ""
    try:
        load_site_plugins(source)
    except JobmillError as error:  # the kinds of packages are there all the same
        broken = str(error)
    kinds = installed_kinds()
    if as_json:
        for kind in kinds:
            terminal.say_json(_told(kind))
    else:
        _show(kinds)
    if broken:
        terminal.note(f"a plug-in of this site cannot be loaded: {broken}")
    return 1 if broken or any(kind.problem for kind in kinds) else 0


def _told(kind: Kind) -> dict[str, object]:
    return {
        "name": kind.name,
        "package": kind.package,
        "class": kind.target,
        "doc": kind.words,
        "importable": not kind.problem,
        "problem": kind.problem,
        "fix": kind.fix,
    }


def _show(kinds: Sequence[Kind]) -> None:
    rows: list[list[Cell | str]] = []
    for kind in kinds:
        what = Cell("cannot be used here", "red") if kind.problem else Cell(kind.words)
        package = "/".join(Path(kind.package).parts[-3:])  # of a file of the site: plugins/systems/mine.py
        rows.append([Cell(kind.name, "bold"), package, Cell(kind.target.rpartition(":")[2], "dim"), what])
    head, *lines = table.lines(COLUMNS, rows)
    terminal.say(head)
    for kind, line in zip(kinds, lines, strict=True):
        terminal.say(line)
        if kind.problem:
            terminal.say(f"  {terminal.paint('WRONG', 'red')} {terminal.clean(kind.problem)}")
        if kind.fix:
            terminal.say(f"  {terminal.paint('→', 'yellow')} {terminal.clean(kind.fix)}")
