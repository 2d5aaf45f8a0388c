"""An instrumented copy of the package: a call to the hook after every step, without any hook in production code.

    points = instrument(folder)      # makes <folder>/jobmill; run workers with PYTHONPATH=<folder> and PYTHONSAFEPATH=1
    found = enumerate_points()       # the same list without a copy

A *step* is a call with an effect outside of the process's memory (`tests.chaos.effects`: all that are not known to be
pure). `f(x)` becomes `_point(17, f(x))` where it stands, so lines and columns of the text before it stay as they are,
and what is planted into the copy is found by its text. To die between two effects is the same whatever pure code lies
between, so a point after each is enough; point 0 is the start of a process. A call of our own function gets no point
when it is the only one: the last point within is the same moment. Calls that never return get none.

In the copy `time.time` is a clock that can be set off for a role, and the kernel's boot id is read from
<folder>/boot_id.
"""

from __future__ import annotations

import ast
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jobmill
from tests.chaos.effects import Effects, Place, Source, dotted
from tests.chaos.pure import NEVER_RETURN

PACKAGE = Path(jobmill.__file__).parent
PARTS = ("manager", "starter", "fetcher", "worker", "ledger", "systems")  # where steps of the processes are
# systems whose other end is elsewhere: they are killed, with their real components, by tests of their own
ELSEWHERE = ("ssh", "far_", "desk", "greeting", "known_hosts", "pool", "docker", "container", "ec2")
ELSEWHERE += ("batch", "slurm", "pbs_words", "pbspro", "torque", "lsf", "command_line", "gridengine", "drmaa")
ELSEWHERE += ("mpi", "pilot_", "command_call", "notices", "native_words")
ELSEWHERE += ("run_as", "as_user", "switch", "handover", "identity", "user_place")  # and those who run as other users
WORKERS = ("scripts.manager", "scripts.starter", "scripts.fetcher")
ENTRIES = (*(f"jobmill.{name}.main" for name in WORKERS), "jobmill.systems.runner.main", "jobmill.systems.guard.main")
JANITOR = ("fetcher.janitor", "Janitor.tick")  # what acts as a process of its own within a fetcher
BOOT_ID = "/proc/sys/kernel/random/boot_id"
HOOK = Path(__file__).with_name("hook.py")
START = "process:start"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One moment between two steps."""

    number: int
    name: str  # <module>:<function>:<callee as written>, with #2, #3 … where that is repeated in the function
    file: str  # below the package
    line: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """A point and the call that it comes after."""

    point: Point
    place: Place


def enumerate_points(package: Path = PACKAGE) -> list[Point]:
    """Return all points, in a stable order."""
    return [_start(), *(step.point for step in _steps(Effects(package)))]


def modules(effects: Effects) -> list[str]:
    """Return the modules with steps of the processes: what a worker, guard or runner loads, and every system."""
    elsewhere = tuple(f"systems.{word}" for word in ELSEWHERE)
    near = [name for name in effects.sources if name.startswith("systems.") and not name.startswith(elsewhere)]
    found = effects.imported([*WORKERS, *near])
    return sorted(name for name in found if name.partition(".")[0] in PARTS and not name.startswith(elsewhere))


def unseen(package: Path = PACKAGE) -> list[str]:
    """Return what the enumeration cannot see, a sentence each; every one is to be mended."""
    effects = Effects(package)
    found = [
        f"{place.module}:{place.call.lineno}: {place.callee} has an effect inside of an f-string: give it a line"
        for module in modules(effects)
        for place in effects.calls(module)
        if place.in_text and effects.has(place)
    ]
    loaded = effects.imported(WORKERS)
    for full in sorted(effects.collisions(modules(effects))):
        if full.removeprefix("jobmill.").rsplit(".", 2)[0] in loaded:
            found.append(f"{full} has an effect and the name of a pure method: take it off PURE_METHODS")
    return found


def instrument(folder: Path, package: Path = PACKAGE) -> list[Point]:
    """Make the copy <folder>/jobmill and return its points. The hook's files are made by `tests.chaos.points`."""
    effects = Effects(package)
    steps = _steps(effects)
    copy = folder / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for source in effects.sources.values():
        mine = [step for step in steps if step.place.module == source.name]
        text = _rewritten(source, mine, folder)
        if text != source.text:
            ast.parse(text)
            (copy / source.path.relative_to(package)).write_text(text)
    points = [_start(), *(step.point for step in steps)]
    hook = HOOK.read_text().replace("@FOLDER@", str(folder)).replace("@COUNT@", str(len(points)))
    (copy / "_points.py").write_text(hook)
    return points


def _start() -> Point:
    return Point(number=0, name=START, file="_points.py", line=1)


def _steps(effects: Effects) -> list[Step]:
    found: list[Step] = []
    names: Counter[str] = Counter()
    wanted = modules(effects)
    single, used = effects.single(wanted), effects.used(ENTRIES)
    for module in wanted:
        places = [p for p in effects.calls(module) if effects.has(p) and not p.in_text and p.callee not in NEVER_RETURN]
        for place in sorted(places, key=lambda p: (*_start_of(p.call), *(-n for n in _end_of(p.call)))):
            if f"jobmill.{module}.{place.function}" not in used:  # clients alone call it
                continue
            meant = effects.meant(place)
            if len(meant) == 1 and meant <= single and effects.modules_of(meant) <= set(wanted):
                continue
            name = f"{module}:{place.function}:{place.callee}"
            names[name] += 1
            again = f"#{names[name]}" if names[name] > 1 else ""
            file = module.replace(".", "/") + ".py"
            point = Point(number=len(found) + 1, name=name + again, file=file, line=place.call.lineno)
            found.append(Step(point=point, place=place))
    return found


def _rewritten(source: Source, steps: list[Step], folder: Path) -> str:
    """Return the text of a module with its points, clock and boot id; every line stays on its line."""
    edits: list[tuple[tuple[int, int], tuple[int, int], str]] = []  # start, end, what stands there instead
    ends: list[tuple[tuple[int, int], tuple[int, int], str]] = []
    for step in steps:  # in order, the outer one first where two begin at the same place
        call = step.place.call
        edits.append((_start_of(call), _start_of(call), f"_point({step.point.number}, "))
        ends.append((_end_of(call), _end_of(call), ")"))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and dotted(node) == "time.time" and source.names.get("time") == "time":
            edits.append((_start_of(node), _end_of(node), "_clock"))
        elif isinstance(node, ast.Constant) and node.value == BOOT_ID:
            edits.append((_start_of(node), _end_of(node), repr(f"{folder}/boot_id")))
    if not edits:
        return source.text
    lines = [line.encode() for line in source.text.splitlines(keepends=True)]  # columns are counted in bytes
    for start, end, text in sorted([*reversed(edits), *ends], key=lambda e: e[0], reverse=True):
        line = lines[start[0] - 1]
        lines[start[0] - 1] = line[: start[1]] + text.encode() + line[end[1] :]
    _import_hook(source, lines)
    tail = ""
    if source.name == JANITOR[0]:
        tail = f'\n\n{JANITOR[1]} = _acting("janitor", {JANITOR[1]})  # type: ignore\n'
    return b"".join(lines).decode() + tail


def _import_hook(source: Source, lines: list[bytes]) -> None:
    """Import the hook on the line of the docstring, or of the last import from the future."""
    words = "; from jobmill._points import acting as _acting, clock as _clock, point as _point"
    last = 0
    for node in source.tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            last = node.end_lineno or 0
    if not last:
        raise ValueError(f"{source.path} has no docstring to put the import of the hook after; give it one")
    lines[last - 1] = lines[last - 1].rstrip() + words.encode() + b"\n"


def _start_of(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end_of(node: ast.expr) -> tuple[int, int]:
    return node.end_lineno or 0, node.end_col_offset or 0
