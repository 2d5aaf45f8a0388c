"""Files that are brought: inputs, and what launches leave on a system that shares no files with us."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from pathlib import Path

from tests.chaos.batch import Batch
from tests.chaos.bench import SLOTS
from tests.chaos.scenarios.scenario import Scenario, failing

MANY = 210  # files: more than the quick line takes
CANCELLED = {"may": frozenset({"cancelled"})}


def inputs(batch: Batch) -> None:
    """Files, a folder and links, into the run folder and into a working directory."""
    source = _source(batch)
    tree = f"cmp tree/deep/c {source}/tree/deep/c && test -L tree/inside && cmp tree/outside {source}/one"
    named = {"from": f"{source}/one", "to": "first/one"}
    for _ in range(2):
        batch.add(
            command=_after(batch, f"{tree} && cmp first/one {source}/one"),
            inputs=[f"{source}/tree", named],
            workdir=None,
        )
    batch.add(command=_after(batch, f"test $(ls many | wc -l) = {MANY}"), inputs=[f"{source}/many"], workdir=None)
    work = batch.bench.folder / f"work.{batch.mark}"
    work.mkdir()
    (work / "one").write_text("one\n")  # it is there already
    into = {"command": _after(batch, tree), "inputs": [f"{source}/one", f"{source}/tree"], "workdir": str(work)}
    first = batch.add(**into)
    batch.add(**into, depends_on=[first])  # all of it is
    for _ in range(3):
        batch.add(inputs=[f"{source}/one", f"{source}/many"], workdir=str(work))  # at once
    batch.push()


def bad_inputs(batch: Batch) -> None:
    """Inputs that cannot come."""
    source, plan = _source(batch), failing("stage_failed")
    work = batch.bench.folder / f"other.{batch.mark}"
    (work / "tree" / "inside").mkdir(parents=True)
    (work / "one").write_text("another\n")
    for system in ("local", "far"):
        batch.add(inputs=[f"{source}/none"], workdir=None, system=system, plan=plan)
        batch.add(inputs=[f"{source}/pipe"], workdir=None, system=system, plan=plan)
    batch.add(inputs=[f"{source}/one"], workdir=str(work), plan=plan)
    batch.add(inputs=[f"{source}/tree"], workdir=str(work), plan=plan)
    batch.add(inputs=[f"{source}/one"], workdir="/no/such/folder", plan=plan)
    batch.push()


def inputs_in_line(batch: Batch) -> None:
    """Wishes for launches that have their inputs and wait for a slot."""
    bench, source = batch.bench, _source(batch)
    bench.redis.hset("Pace", "local", "1")  # jobs are short there: more are granted than run
    for _ in range(6):
        batch.add(60, inputs=[f"{source}/tree"], workdir=None, plan=CANCELLED)
    batch.push()
    batch.until_started(SLOTS)
    waiting = (bench.spool / "stage" / "local").glob
    bench.until(lambda: sum(1 for _ in waiting("*/tree/outside")) >= 2, 5)
    waits = [i for i in batch.ids if str(bench.client.job(i).state) != "running"]
    for some in (waits, batch.ids):
        if some:
            _cancel(batch, some)
        bench.until(lambda some=some: bench.ended(some), 8)  # type: ignore[misc]


def inputs_gone(batch: Batch) -> None:
    """Somebody removes the inputs of a launch that waits for a slot."""
    bench, source = batch.bench, _source(batch)
    bench.redis.hset("Pace", "local", "1")
    for _ in range(SLOTS):
        batch.add(1.5)
    batch.push()
    batch.until_started(SLOTS)
    plan = {"may": frozenset({"failed", "done"}), "reasons": frozenset({"stage_failed"})}  # done: it was staged anew
    batch.add(inputs=[f"{source}/one"], workdir=None, plan=plan)
    batch.push()
    stage = bench.spool / "stage" / "local"
    bench.until(lambda: any(stage.glob(f"*:{batch.ids[-1]}:*/one")), 3)
    for folder in stage.glob(f"*:{batch.ids[-1]}:*"):
        shutil.rmtree(folder, ignore_errors=True)


def inputs_left(batch: Batch) -> None:
    """Inputs that nobody took for a day; whoever leads the system anew removes them."""
    bench = batch.bench
    old = bench.spool / "stage" / "local" / f"left.{batch.mark}"
    old.mkdir(parents=True)
    (old / "one").write_text("one\n")
    os.utime(old, (0, 0))
    batch.add(inputs=[f"{_source(batch)}/one"], workdir=None)
    batch.push()
    bench.until(lambda: bench.ended(batch.ids), 10)
    bench.signal("starter", signal.SIGTERM)
    bench.until(lambda: not old.exists(), 10)


def far(batch: Batch) -> None:
    """Inputs go to a system that shares no files, logs and outputs come from there."""
    source = _source(batch)
    make = "mkdir -p d/e; echo x > d/e/x; ln -s e/x d/link; echo a > a.out; echo said; echo 1 > $JOBMILL_RETURN_FILE"
    homes = {"stdout": "said\n", "stderr": "", "outputs/a.out": "a\n", "outputs/d/e/x": "x\n", "return.json": "1\n"}
    for how in ("0", "3"):
        batch.far(
            how=how,
            command=_after(batch, f"cmp tree/outside {source}/one && {{ {make}; }}", how),
            inputs=[f"{source}/tree"],
            outputs=["*.out", "d", "tree/**", {"glob": "**/e/x", "required": False}],
            homes={**homes, "outputs/d/link": "x\n", "outputs/tree/inside": "c\n"},
        )
    # what a stepper leaves: the plain job class of strangers' systems steps only where files are shared
    steps = """echo '{"steps": [{"name": "one"}]}' > job.yaml; echo 1 > one.log"""
    batch.far(command=_after(batch, steps), homes={"one.log": "1\n"})
    batch.far(outputs=["none.*"], plan=failing("missing_output"))
    batch.far(0.3, "KILL", homes={"stdout": ""})
    batch.far(0, "9", retry={"max": 1, "on": ["failed"], "delay": "0s"}, plan={"retries": 1})
    batch.push()


def far_slow(batch: Batch) -> None:
    """Transfers that take longer than a word on how far they are."""
    source = _source(batch)
    _sick(batch, "in.slow", "0.15", inputs=[f"{source}/tree"])
    _sick(batch, "out.slow", "0.15", command=_after(batch, "echo a > a.out"), outputs=["*.out"])
    batch.push()
    bench = batch.bench
    try:
        bench.until(lambda: bench.ended(batch.ids), 15)
    finally:
        bench.unhook()


def far_down(batch: Batch) -> None:
    """A system that is out of reach when files are to be brought, and comes back."""
    _sick(batch, "in.down", inputs=[f"{_source(batch)}/one"])
    _sick(batch, "out.down", command=_after(batch, "echo a > a.out"), outputs=["*.out"], homes={"outputs/a.out": "a\n"})
    _sick(batch, "out.fail", command=_after(batch, "echo a > a.out"), outputs=["*.out"], plan=failing("stage_failed"))
    batch.push()
    bench = batch.bench
    try:
        bench.until(lambda: _told(batch, 1, "tries again"), 8)
        (bench.there / "hooks" / f"out.down.{batch.ids[1]}").unlink(missing_ok=True)
        (bench.there / "hooks" / f"in.down.{batch.ids[0]}").unlink(missing_ok=True)
        bench.until(lambda: bench.ended(batch.ids), 15)
    finally:
        bench.unhook()


def far_cancel(batch: Batch) -> None:
    """Wishes while inputs go there, while the job runs, and while its files come home."""
    bench = batch.bench
    _sick(batch, "in.slow", "0.3", inputs=[f"{_source(batch)}/many"], plan=CANCELLED)
    many = "for n in $(seq 99); do echo $n > $n.out; done"
    _sick(batch, "out.slow", "0.1", command=many, outputs=["*.out"], plan=CANCELLED)
    batch.far(60, outputs=["*.out"], plan=CANCELLED)
    batch.push()
    states = {0: "starting", 1: "collecting", 2: "running"}
    try:
        batch.until_started(1)
        for number, state in states.items():
            bench.until(lambda n=number, s=state: str(bench.client.job(batch.ids[n]).state) == s, 5)  # type: ignore[misc]
        bench.until(lambda: _told(batch, 0, "stages in") and _told(batch, 1, "brings home"), 4)
        _cancel(batch, batch.ids)
        bench.until(lambda: bench.ended(batch.ids), 15)
    finally:
        bench.unhook()


def _far_killed(role: str) -> Scenario:
    def scenario(batch: Batch) -> None:
        source = _source(batch)
        _sick(batch, "in.slow", "0.05", inputs=[f"{source}/tree"])
        _sick(batch, "out.slow", "0.05", command=_after(batch, "echo a > a.out"), outputs=["*.out"])
        bench = batch.bench
        batch.push()
        wanted = "starting" if role == "starter" else "collecting"
        try:
            bench.until(lambda: wanted in {str(bench.client.job(i).state) for i in batch.ids}, 8)
            bench.signal(role)
            bench.until(lambda: bench.ended(batch.ids), 20)
        finally:
            bench.unhook()

    scenario.__doc__ = f"The {role} dies while files are on their way."
    return scenario


def _source(batch: Batch) -> Path:
    """Return a folder with what jobs are given."""
    folder = batch.bench.folder / "source"
    if not folder.exists():
        (folder / "tree" / "deep").mkdir(parents=True)
        (folder / "many").mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "one").write_text("one\n")
        (folder / "tree" / "a").write_text("a\n")
        (folder / "tree" / "deep" / "c").write_text("c\n")
        (folder / "tree" / "inside").symlink_to("deep/c")
        (folder / "tree" / "outside").symlink_to("../one")
        for number in range(MANY):
            (folder / "many" / str(number)).write_text(f"{number}\n")
    return folder


def _after(batch: Batch, words: str, how: str = "0") -> str:
    """Return the command of a body that tells of its start when this was well."""
    return f"{words} && exec {shlex.join(batch.evidence.command(0.02, how))}"


def _sick(batch: Batch, hook: str, text: str = "", **spec: object) -> None:
    """Put a job on `far` in the batch for which it is sick."""
    job_id = batch.far(**spec)  # type: ignore[arg-type]
    batch.bench.hook(f"{hook}.{job_id}", text)


def _told(batch: Batch, number: int, words: str) -> bool:
    told = batch.bench.redis.hget(f"Job:{batch.ids[number]}", "progress")
    return isinstance(told, bytes) and words.encode() in told


def _cancel(batch: Batch, ids: list[str]) -> None:
    client = batch.bench.client
    batch.bench.until(lambda: "unknown" not in client.cancel(ids, "sweep").values(), 15)


SCENARIOS: dict[str, Scenario] = {
    "inputs": inputs,
    "bad-inputs": bad_inputs,
    "inputs-in-line": inputs_in_line,
    "inputs-gone": inputs_gone,
    "inputs-left": inputs_left,
    "far": far,
    "far-slow": far_slow,
    "far-down": far_down,
    "far-cancel": far_cancel,
    **{f"far-kill-{role}": _far_killed(role) for role in ("starter", "fetcher")},
}
