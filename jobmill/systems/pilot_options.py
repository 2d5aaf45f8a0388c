"""The options of the `mpi` system."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobmill.errors import ConfigError, nearest
from jobmill.systems import registry
from jobmill.systems.batch import BatchSystem
from jobmill.systems.container_template import ContainerTemplate

KEYS = (
    *("over", "launcher", "task_launcher", "ranks", "cpus", "nodes", "memory", "walltime", "allocations", "idle"),
    *("drain", "queue", "account", "path", "job_env", "python", "kill_grace", "poll_interval", "late", "container"),
)
# as many ranks as asked for, with all cores for each: the jobs of a rank share what the allocation has. A rank that
# dies leaves the others alone
MPIRUN = ("mpirun", "--bind-to", "none", "--oversubscribe", "--enable-recovery", "-n", "{ranks}")
SRUN = ("srun", "--ntasks={ranks}", "--cpus-per-task={cpus}", "--cpu-bind=none", "--mpi=none", "--kill-on-bad-exit=0")
TASKS = ("mpirun", "--bind-to", "none", "--oversubscribe", "-n", "{tasks}")
LAUNCHERS = {"slurm": SRUN}  # by the kind that the pilot is over


@dataclass(frozen=True, kw_only=True)
class PilotOptions:
    """What the configuration says of one pilot."""

    over: BatchSystem | None  # whose allocations it takes; None: this machine
    launcher: tuple[str, ...]  # words that start all ranks of an allocation
    task_launcher: tuple[str, ...]  # words that start the tasks of one job
    ranks: int = 1  # of an allocation
    cpus: int = 1  # slots of a rank
    nodes: int | None = None  # over which the ranks are spread; None: as the scheduler does it
    memory: int | None = None  # MiB, of each node of an allocation
    walltime: float | None = None  # seconds, of an allocation
    allocations: int = 1  # at once, those in line included
    idle: float = 60.0  # seconds without any job after which an allocation ends
    drain: float = 60.0  # seconds before its end from which on only what certainly ends in time is started
    queue: str | None = None
    account: str | None = None
    path: str | None = None  # here: where the launcher is
    job_env: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable  # where the ranks are, 3.6 or newer
    kill_grace: float = 5.0  # seconds between TERM and KILL at a walltime
    poll_interval: float = 5.0  # seconds between two surveys, and between two questions to the scheduler
    late: float = 0.0  # seconds for which the file system may show a record late
    container: ContainerTemplate | None = None

    @classmethod
    def parse(cls, name: str, options: Mapping[str, Any], spool: Path) -> PilotOptions:
        """Read the mapping of a system; raise ConfigError for an unknown option or a value that cannot be."""
        where = f"systems.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,58}", name):
            raise ConfigError(f"{where}: a system's name is letters, digits, `.`, `_` and `-`, at most 59 for a pilot")
        for key in options:
            if key == "slots":
                raise ConfigError(f"{where}.slots: they are ranks x cpus of each allocation; say these")
            if key not in KEYS:
                raise ConfigError(f"{where}: unknown option {key!r}{nearest(key, KEYS)}; known: {', '.join(KEYS)}")
        given = {key: value for key, value in options.items() if value is not None}
        over = _over(where, name, given.get("over"), spool)
        values: dict[str, Any] = {"over": over}
        for key, most in (("ranks", 9999), ("cpus", 9999), ("nodes", 9999), ("allocations", 999), ("memory", 1 << 40)):
            if key in given:
                values[key] = _whole(given[key], f"{where}.{key}", most)
        for key in ("walltime", "idle", "drain", "kill_grace", "poll_interval", "late"):
            if key in given:
                values[key] = _seconds(given[key], f"{where}.{key}", 0.1 if key == "poll_interval" else 0.0)
        for key in ("queue", "account", "path", "python"):
            if key in given:
                values[key] = _text(given[key], f"{where}.{key}")
        if "job_env" in given:
            values["job_env"] = _texts(given["job_env"], f"{where}.job_env")
        if "container" in given:
            values["container"] = ContainerTemplate.of(where, given["container"])
        if over is not None:
            values = {"python": over.options.python, "late": over.options.late, "poll_interval": 15.0} | values
        kind = "" if over is None else over.kind
        values["launcher"] = _words(given.get("launcher", LAUNCHERS.get(kind, MPIRUN)), f"{where}.launcher")
        values["task_launcher"] = _words(given.get("task_launcher", TASKS), f"{where}.task_launcher")
        found = cls(**values)
        found._check(where)
        return found

    def _check(self, where: str) -> None:
        """Refuse what does not go together."""
        if self.over is not None and not self.walltime:
            raise ConfigError(
                f"{where}.walltime: say in seconds how long an allocation is, so that its ranks can drain"
            )
        if self.over is None and (self.nodes or 1) > 1:
            raise ConfigError(f"{where}.nodes: without `over` a pilot has this machine alone")
        if self.walltime and self.walltime <= self.drain + self.kill_grace + 10:
            raise ConfigError(
                f"{where}.walltime: {self.walltime:g} s leave no time to start anything before the last "
                f"{self.drain:g} s (drain); make it longer, or drain shorter"
            )

    @property
    def slots(self) -> int:
        """CPUs of an allocation."""
        return self.ranks * self.cpus

    def too_large(self, cpus: int, walltime: float | None) -> str:
        """Return why no allocation can ever hold a launch, or nothing."""
        if cpus > self.cpus:
            return f"{cpus} cpus wanted, a rank has {self.cpus}"
        most = None if self.walltime is None else self.walltime - self.kill_grace - 10
        if most is not None and walltime and walltime > most:
            return f"a walltime of {walltime:g} s, an allocation has {most:g} s for work"
        return ""

    def launch_words(self) -> list[str]:
        """Return the words that start all ranks of an allocation."""
        known = {"ranks": self.ranks, "cpus": self.cpus, "nodes": self.nodes or 1}
        return [_filled(word, known) for word in self.launcher]

    def refuses_root(self) -> bool:
        """Tell whether the words that start the ranks are of Open MPI and refuse root."""
        words = self.launcher  # MPICH's mpirun has no such word
        open_mpi = Path(words[0]).name in ("mpirun", "mpiexec", "orterun") and "--oversubscribe" in words
        return open_mpi and "--allow-run-as-root" not in words

    def task_words(self, tasks: int, cpus: int) -> list[str]:
        """Return the words that start so many tasks of a job, with so many CPUs each."""
        return [_filled(word, {"tasks": tasks, "cpus": cpus}) for word in self.task_launcher]


def _filled(word: str, values: Mapping[str, int]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word


def _over(where: str, name: str, value: Any, spool: Path) -> BatchSystem | None:
    """Build the batch system whose allocations the pilot takes."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise ConfigError(f"{where}.over: write the options of a batch system, as {{kind: slurm, native: [-p, short]}}")
    if value.get("host") is not None:
        raise ConfigError(f"{where}.over.host: a pilot's line lies on files that we share with the nodes; run it there")
    kind = registry.system_class(value["kind"])
    if not issubclass(kind, BatchSystem):
        raise ConfigError(
            f"{where}.over.kind: {value['kind']!r} is no batch scheduler whose allocations could be taken"
        )
    found = kind.build(f"{name}.over", {key: it for key, it in value.items() if key != "kind"}, spool)
    assert isinstance(found, BatchSystem)
    return found


def _whole(value: Any, where: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{where}: {value!r} is not a whole number from 1 to {most}")
    return value


def _seconds(value: Any, where: str, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e8:
        raise ConfigError(f"{where}: {value!r} is not a number of seconds from {least:g}")
    return float(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ConfigError(f"{where}: {value!r} is no text")
    return value


def _texts(value: Any, where: str) -> dict[str, str]:
    fits = isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, str) and k and "=" not in k and "\0" not in k + v for k, v in value.items()
    )
    if not fits:
        raise ConfigError(f"{where}: write a mapping of names to texts")
    return dict(value)


def _words(value: Any, where: str) -> tuple[str, ...]:
    words: Sequence[Any] = value if isinstance(value, list | tuple) else ()
    if not words or not all(isinstance(it, str) and it and "\0" not in it for it in words):
        raise ConfigError(f"{where}: write a list of words, as [mpirun, -n, '{{ranks}}']")
    return tuple(os.path.expanduser(it) for it in words)  # noqa: PTH111 - a word is not always a path
