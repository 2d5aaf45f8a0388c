"""Checks and their fixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from jobmill.config import Config
from jobmill.daemon.address import address
from jobmill.daemon.checkup import Checkup
from jobmill.daemon.diagnosis import diagnose, out_of_reach
from jobmill.errors import JobmillError, UnknownName, nearest
from jobmill.ledger.record import Record
from jobmill.screen import terminal
from jobmill.screen.status_line import StatusLine
from jobmill.systems.registry import known_kinds
from jobmill.systems.system import Check

SILENT = 0.3  # seconds before anything is said of a wait
TURN = 0.1  # seconds between two looks at it


def show_checks(checks: Sequence[Check], *, as_json: bool) -> int:
    """Write what was looked at, with the fix of what is wrong; return 1 when something is."""
    if as_json:
        for check in checks:
            terminal.say_json(asdict(check))
    else:
        for line in check_lines(checks):
            terminal.say(line)
        wrong = sum(not check.ok for check in checks)
        terminal.say(terminal.paint(f"{wrong} wrong", "red") if wrong else terminal.paint("all well", "green"))
    return 0 if all(check.ok for check in checks) else 1


def check_lines(checks: Sequence[Check], indent: str = "") -> list[str]:
    """Return a line a check, and one for each fix."""
    longest = max((len(check.name) for check in checks), default=0)
    found = []
    for check in checks:
        sign = terminal.paint("ok   ", "green") if check.ok else terminal.paint("WRONG", "red")
        found.append(f"{indent}{sign} {check.name:{longest}}  {terminal.clean(check.detail)}")
        if check.fix:
            found.append(f"{indent}      {'':{longest}}  {terminal.paint('→', 'yellow')} {terminal.clean(check.fix)}")
    return found


def show_diagnosis(config: Config, *, as_json: bool) -> int:
    """Look at everything and write it; return 1 when something is wrong."""
    checkup = Checkup(config, config.systems)  # they take their time while we look at the server
    found = diagnose(config)
    _attend(checkup, config.systems)
    return show_checks([*found, *(check for name in config.systems for check in checkup.checks(name))], as_json=as_json)


def show_systems(config: Config, names: Sequence[str] = (), *, as_json: bool) -> int:
    """Write these systems (all), each with its checks as soon as it and those before it have answered.

    Returns 1 when one cannot run jobs; raises UnknownName.
    """
    for name in names:
        if name not in config.systems:
            known = f"known: {', '.join(config.systems)}"
            raise UnknownName(f"unknown system '{name}'{nearest(name, config.systems)}; {known}")
    wanted = list(dict.fromkeys(names)) or list(config.systems)
    fine = True
    checkup = Checkup(config, wanted)
    outages = _outages(config)
    for name in wanted:
        _attend(checkup, [name])
        system = config.systems[name]
        checks = [*(c for c in outages if c.name == f"{name}: reached"), *checkup.checks(name)]
        fine = fine and all(check.ok for check in checks)
        if as_json:
            told = {
                "name": name,
                "kind": system.kind,
                "slots": system.slots,
                "limit": system.limit,
                "lane": system.lane,
            }
            terminal.say_json(told | {"checks": [asdict(check) for check in checks]})
            continue
        slots = "" if system.slots is None else f", {system.slots} at once"
        lane = f", lane {system.lane}" if system.lane else ""
        terminal.say(f"{terminal.paint(name, 'bold')}  {system.kind}{slots}, {system.limit} in its queue{lane}")
        for line in check_lines(checks, "  "):
            terminal.say(line)
    if not as_json and not names:
        terminal.say(f"kinds: {', '.join(known_kinds())}")
        terminal.say(f"configuration: {config.source or 'none, everything by default'}")
    return 0 if fine else 1


def _attend(checkup: Checkup, names: Iterable[str]) -> None:
    """Wait until these systems have answered, or may not any more, and say on a terminal what is waited for."""
    awaited = set(names)
    with StatusLine() as line:
        while awaited & set(pending := checkup.pending()):
            if checkup.age > SILENT:
                left = f"{checkup.deadline - checkup.age:.0f} s left"
                done = f"{len(checkup.names) - len(pending)} of {len(checkup.names)} systems checked"
                line.show(f"{done}, {left}: waits for {', '.join(pending)}")
            checkup.wait(TURN)


def _outages(config: Config) -> list[Check]:
    """Return what the workers could not reach; nothing where no server answers: the systems can be checked without."""
    record = Record(config.redis.url or address(config.state), prefix=config.redis.prefix)
    try:
        return out_of_reach(record)
    except JobmillError:
        return []
    finally:
        record.close()
