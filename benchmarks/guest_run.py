"""One run of a guest on a cluster: what its jobs wrote down themselves, and what its user saw."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm_shims import Shims

from benchmarks.contender import WrongResult
from benchmarks.guests import Guest

LOOK = 0.25  # seconds between looks at files
BODY = """date +%s%N >> "$1/start.$2"; sleep "$3"; date +%s%N >> "$1/end.$2"; exit "$4"
"""


@dataclass(frozen=True)
class Plan:
    """One job."""

    seconds: float
    value: int = 0  # that it exits with


@dataclass(frozen=True)
class Seen:
    """What its user was told of one job's end."""

    time: float  # seconds since 1970, of this machine's clock
    state: str


class Run:
    """Guest, programs before Slurm's, and the files of jobs and user, in one folder."""

    def __init__(self, guest: Guest, folder: Path, plans: Sequence[Plan], *, note: bool = True) -> None:
        self.guest, self.folder, self.plans = guest, folder, plans
        self.shims = Shims(folder / "shims", note=note)
        self.bodies = folder / "bodies"
        self.bodies.mkdir()
        (folder / "body").write_text(BODY)
        self._user: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def going(self, env: Mapping[str, str], options: Mapping[str, Any], wrap: Sequence[str] = ()) -> Iterator[None]:
        """Have the user submit, and see, for the length of a block."""
        with self.guest.serve(self.folder, self.shims.path, env, options, wrap) as given:
            jobs = [{"number": number, "argv": self._argv(number, it)} for number, it in enumerate(self.plans)]
            (self.folder / "plan.json").write_text(json.dumps({"jobs": jobs, "options": given}))
            self._user = self.guest.start(self.folder, self.shims.path, env, wrap)
            try:
                yield
            finally:
                (self.folder / "stop").touch()
                try:
                    self._user.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    self._user.kill()
                    self._user.wait()

    def _argv(self, number: int, it: Plan) -> list[str]:
        return ["/bin/sh", str(self.folder / "body"), str(self.bodies), str(number), f"{it.seconds:g}", str(it.value)]

    def until(self, there: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for something; raise WrongResult, with the user's last words, where it does not come."""
        until = time.monotonic() + seconds
        while not there():
            gone = self._user is not None and self._user.poll() is not None and not there()
            if gone or time.monotonic() > until:
                log = (self.folder / "client.log").read_text(errors="replace")[-1500:]
                why = f"its user left with {self._user.returncode if self._user else '?'}" if gone else "too late"
                raise WrongResult(f"{self.guest.name}: {what}: {why} ({seconds:g} s)\n{log}")
            time.sleep(LOOK)

    @property
    def submitted(self) -> bool:
        """Whether all is in line."""
        return (self.folder / "submitted").exists()

    def times(self, what: str) -> Mapping[int, list[float]]:
        """Return when each body did ``start`` or ``end``, seconds since 1970."""
        found: dict[int, list[float]] = {}
        for number in range(len(self.plans)):
            with contextlib.suppress(OSError):
                found[number] = [int(it) / 1e9 for it in (self.bodies / f"{what}.{number}").read_text().split()]
        return found

    def seen(self) -> Mapping[int, list[Seen]]:
        """Return what its user was told of each job, in order."""
        found: dict[int, list[Seen]] = {}
        offset = time.time() - time.monotonic()  # the user's own clock may be wrong
        with contextlib.suppress(OSError):
            for line in (self.folder / "seen").read_text(errors="replace").splitlines():
                number, when, state = f"{line}  ".split(" ", 2)
                found.setdefault(int(number), []).append(Seen(int(when) / 1e9 + offset, state.strip()))
        return found

    def resubmitted(self) -> int:
        """Return how many submissions were told to have failed."""
        with contextlib.suppress(OSError):
            return (self.folder / "client.log").read_text(errors="replace").count("is told not to be submitted")
        return 0


@dataclass(frozen=True)
class Verdict:
    """What happened to the jobs of one run, by their own files."""

    right: Sequence[int]
    doubled: Sequence[int]  # started more than once
    lost: Sequence[int]  # no end was told, or none started though it was told to be over
    false: Mapping[int, str]  # told to be over while it ran, or with an end that was not its own

    @property
    def words(self) -> str:
        """The verdict as a cell of a table."""
        counts = {"doubled": len(self.doubled), "lost": len(self.lost), "false end": len(self.false)}
        found = [
            f"{count} {what}{'s' if what == 'false end' and count > 1 else ''}"
            for what, count in counts.items()
            if count
        ]
        return ", ".join(found) or "right"


def judge(run: Run) -> Verdict:
    """Compare what the user was told with what the jobs wrote down. The first word of an end counts, not the last."""
    starts, ends, seen = run.times("start"), run.times("end"), run.seen()
    doubled = [number for number, times in starts.items() if len(times) > 1]
    lost, false = [], {}
    for number, plan in enumerate(run.plans):
        if number not in seen:
            lost.append(number)
            continue
        first = seen[number][0]
        if number not in ends or first.time < max(ends[number]):
            when = "never ran" if number not in starts else "ran"
            false[number] = f"told {first.state!r} while it {when}"
        elif (first.state.split()[0] == "done") != (plan.value == 0):
            false[number] = f"told {first.state!r}, it exited with {plan.value}"
    bad = {*doubled, *lost, *false}
    return Verdict([number for number in range(len(run.plans)) if number not in bad], doubled, lost, false)


def figures(run: Run, opened: float) -> dict[str, Any]:
    """Return queries a minute and delays between ``opened`` and the last end of a body; times in seconds."""
    ends, seen, verdict = run.times("end"), run.seen(), judge(run)
    last = max((max(times) for times in ends.values()), default=opened)
    minutes = max(last - opened, 1e-9) / 60
    calls = list(run.shims.calls())
    steady = Counter(call.kind for call in calls if call.query and opened <= call.time <= last)
    before = Counter(call.kind for call in calls if call.time < opened)
    others = Counter(call.kind for call in calls if not call.query and call.time >= opened)
    delays = sorted(seen[number][0].time - max(ends[number]) for number in ends if number in seen)
    return {
        "version": run.guest.version,
        "how": run.guest.how,
        "jobs": len(run.plans),
        "steady_s": round(last - opened, 1),
        "queries_per_min": round(sum(steady.values()) / minutes, 2),
        "queries": {kind: round(count / minutes, 2) for kind, count in sorted(steady.items())},
        "calls_before": dict(sorted(before.items())),
        "other_calls": dict(sorted(others.items())),
        "median_delay_s": round(statistics.median(delays), 2) if delays else None,
        "p95_delay_s": round(delays[int(0.95 * (len(delays) - 1))], 2) if delays else None,
        "longest_delay_s": round(delays[-1], 2) if delays else None,
        "doubled": len(verdict.doubled),
        "lost": len(verdict.lost),
        "false_ends": len(verdict.false),
        "examples": [f"job {number}: {words}" for number, words in list(verdict.false.items())[:3]],
    }
