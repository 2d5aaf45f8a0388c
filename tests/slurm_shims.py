"""Programs that stand before Slurm's own in PATH: they note what is asked, and do what schedulers did to others.

    shims = Shims(folder, note=True)                      # every call of COMMANDS is a line in shims.calls
    shims.put("squeue", "exit 0")                         # a shell text; "$real" is Slurm's own program
    shims.fault("down"); shims.armed = False              # one of FAULTS, and its end
    Popen(…, env={"PATH": shims.path})

What they do can change while somebody uses them: a call meets the program before or the one after, whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from farm import need
from slurm_farm import PATH

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel", "sinfo", "srun")
QUERIES = ("squeue", "sacct", "sinfo", "scontrol show")  # what asks slurmctld or slurmdbd, and changes nothing
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
REFUSED = "slurm_persist_conn_open_without_init: failed to open persistent connection: Connection refused"
BANNER = "*** Welcome | to this cluster. Maintenance on Monday, from 7 to 9 ***"

# Faults: program -> shell text. `first N` is true for the first N calls of this program, `pass` goes on as Slurm's own.
ONCE = "first 2 || pass "
HALF = 'whole=$("$real" "$@"; echo .); printf %s "${whole%.}" | head -c $((${#whole} / 2))'
FAULTS: Mapping[str, Mapping[str, str]] = {
    "accepted, then timed out": {"sbatch": f'{ONCE}"$@"; "$real" "$@" >&-; echo "{TIMED_OUT}" >&2; exit 1'},
    "accepted, and no answer": {"sbatch": f'{ONCE}"$@"; "$real" "$@" >&-; exec sleep 30'},
    "empty answers": {"squeue": "exit 0", "sacct": "exit 0"},
    "lists without rows": dict.fromkeys(("squeue", "sacct"), '"$real" "$@" | head -n 1'),
    "half answers": dict.fromkeys(("squeue", "sacct"), HALF),
    "down": {"squeue": f'echo "{DOWN}" >&2; exit 1', "sacct": f'echo "sacct: error: {REFUSED}" >&2; exit 1'},
    "no answers": {"squeue": "exec sleep 30", "sacct": "exec sleep 30"},
    "banners": dict.fromkeys(("sbatch", "squeue", "sacct"), f'echo "{BANNER}"; pass "$@"'),
    "held answers": dict.fromkeys(("squeue", "sacct"), 'while [ -e "$state/armed" ]; do sleep 0.2; done; pass "$@"'),
    "accounting gone": {"sacct": f'echo "sacct: error: {REFUSED}" >&2; exit 1'},
}
HEAD = """#!/bin/sh
real={real} state={state}
pass() {{ exec "$real" "$@"; }}
first() {{ for n in $(seq "$1"); do mkdir "$state/{name}.$n" 2>&- && return 0; done; return 1; }}
"""
NOTE = """printf '%s %s %s\\n' "$(date +%s%N)" {name} "$1 $2" >> "$state/calls"
"""
CLOCK = """import time
right, right_ns = time.time, time.time_ns
time.time = lambda: right() + {seconds}
time.time_ns = lambda: right_ns() + {seconds} * 10**9
"""
ARMED = """[ -e "$state/armed" ] || pass "$@"
: > "$state/met"
"""


@dataclass(frozen=True)
class Call:
    """One call of a program of Slurm's."""

    time: float  # seconds since 1970
    program: str
    words: str  # its first two

    @property
    def kind(self) -> str:
        """The program, and of scontrol what it was to do."""
        return (
            f"scontrol {self.words.split()[0]}" if self.program == "scontrol" and self.words.strip() else self.program
        )

    @property
    def query(self) -> bool:
        """Whether the scheduler is asked, and nothing is changed."""
        # `scontrol show hostnames` unfolds a list of names by itself
        return self.kind in QUERIES and not self.words.startswith("show hostname")


class Shims:
    """A folder of programs."""

    def __init__(self, folder: Path, *, note: bool = False) -> None:
        self.folder, self.state = folder / "bin", folder / "state"
        self.calls_file = self.state / "calls"
        self._note = note
        for made in (self.folder, self.state):
            made.mkdir(parents=True)
        if note:
            for name in COMMANDS:
                self.put(name)

    @property
    def path(self) -> str:
        """A PATH with these first."""
        return f"{self.folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"

    def put(self, name: str, text: str = 'pass "$@"', *, when_armed: bool = False) -> None:
        """Have a program do this; whoever calls it meets the one before or this one, whole."""
        real = shutil.which(name, path=PATH) or f"/no/{name}"
        lines = HEAD.format(real=real, state=self.state, name=name)
        lines += NOTE.format(name=name) if self._note else ""
        lines += (ARMED if when_armed else "") + text + "\n"
        made = self.state / f"{name}.new"
        made.write_text(lines)
        made.chmod(0o755)
        made.rename(self.folder / name)

    def fault(self, name: str) -> None:
        """Have the programs of a fault do it while ``armed``."""
        for program, text in FAULTS[name].items():
            self.put(program, text, when_armed=True)

    @property
    def armed(self) -> bool:
        """Whether the fault is there now."""
        return (self.state / "armed").exists()

    @armed.setter
    def armed(self, there: bool) -> None:
        if there:
            (self.state / "armed").touch()
        else:
            (self.state / "armed").unlink(missing_ok=True)

    @property
    def met(self) -> bool:
        """Whether anybody called a program while it was armed."""
        return (self.state / "met").exists()

    def calls(self) -> Iterator[Call]:
        """Give what was called so far."""
        if self.calls_file.exists():
            for line in self.calls_file.read_text(errors="replace").splitlines():
                time, program, words = f"{line}  ".split(" ", 2)
                yield Call(int(time) / 1e9, program, words.strip())


def skewed(shims: Shims, hours: int) -> list[str]:
    """Have Slurm's queries run with a clock that is so many hours off; return the words that do this to a Python.

    The cluster's own clock stays right, and what is submitted takes nothing of it along. Raises Missing.
    """
    need({"faketime": "faketime"})
    monotonic = "FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1"  # timeouts are none of its business
    for name in ("squeue", "sacct", "scontrol", "scancel"):
        shims.put(name, f'exec env {monotonic} faketime -m -f "{hours:+d}h" "$real" "$@"')
    # not by faketime as well: under it a Python's sleeps fail
    clock = shims.state / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK.format(seconds=3600 * hours))
    for name in ("sbatch", "srun"):
        shims.put(name, 'exec env -u PYTHONPATH "$real" "$@"')
    return ["env", f"PYTHONPATH={clock}"]
