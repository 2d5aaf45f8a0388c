"""What a job asks of Grid Engine, in the words of its submit command: parallel environment, limits, complexes."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobmill.errors import ConfigError
from jobmill.systems.system import Submission

PE_FOR = ("cpus", "tasks")  # keys of the option `pe`
SHARES = ("job", "slot")  # what one unit of a complex is for
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z0-9_.+-]{1,128}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class GridRequest:
    """How this site names what jobs ask for."""

    pe: Mapping[str, str] = field(default_factory=dict)  # `cpus`: of one node, `tasks`: of several -> its name
    memory: Mapping[str, str] = field(default_factory=lambda: {"mem_free": "job"})  # complex -> job or slot
    gpus: Mapping[str, str] = field(default_factory=lambda: {"gpu": "job"})
    project: str | None = None

    @classmethod
    def parse(cls, name: str, options: Mapping[str, Any]) -> GridRequest:
        """Read the options ``pe``, ``memory``, ``gpus`` and ``project`` of a system; raise ConfigError."""
        where = f"systems.{name}"
        values: dict[str, Any] = {}
        if options.get("pe") is not None:
            values["pe"] = _names(options["pe"], f"{where}.pe", keys=PE_FOR)
        for key in ("memory", "gpus"):
            if options.get(key) is not None:
                values[key] = _names(options[key], f"{where}.{key}", values=SHARES)
        project = options.get("project")
        if project is not None and (not isinstance(project, str) or not _NAME.fullmatch(project)):
            raise ConfigError(f"{where}.project: {project!r} is no name of a project")
        return cls(**values, project=project)

    def words(self, it: Submission, native: tuple[str, ...]) -> list[str]:
        """Return the words of a job; ``native``: of the system. Raises ValueError, with the fix, for what cannot be."""
        own = [*native, *shlex.split(it.native or "")]
        if it.account and not _ACCOUNT.fullmatch(it.account):
            raise ValueError(f"account {it.account!r}: Grid Engine takes letters, digits and `_.+-`")
        tasks = it.tasks or 1
        slots = max(1, it.cpus) * tasks
        words = [] if "-pe" in own else self._environment(it, slots)
        limits = [f"h_rt={max(1, math.ceil(it.walltime / 60)) * 60}"] if it.walltime else []
        limits += [f"{name}={_share(it.memory, slots, per)}M" for name, per in self.memory.items() if it.memory]
        limits += [f"{name}={_share(it.gpus, slots, per)}" for name, per in self.gpus.items() if it.gpus]
        words += ["-l", ",".join(limits)] if limits else []
        words += ["-q", it.queue] if it.queue else []
        words += ["-A", it.account] if it.account else []
        words += ["-P", self.project] if self.project else []
        return [*words, *own]

    def _environment(self, it: Submission, slots: int) -> list[str]:
        wanted = "tasks" if it.tasks or (it.nodes or 1) > 1 else "cpus"
        if slots == 1 and wanted == "cpus":
            return []
        if wanted not in self.pe:
            raise ValueError(
                f"a job with {wanted} needs a parallel environment: set pe: {{{wanted}: NAME}} of this system, "
                "`qconf -spl` lists them, or `-pe NAME SLOTS` in the job's native"
            )
        return ["-pe", self.pe[wanted], str(slots)]


def _share(amount: int, slots: int, per: str) -> int:
    """Return what is asked for: all of it, or a slot's share, rounded up."""
    return amount if per == "job" else math.ceil(amount / slots)


def _names(
    given: Any, where: str, *, keys: tuple[str, ...] | None = None, values: tuple[str, ...] | None = None
) -> dict[str, str]:
    example = "{h_vmem: slot}" if values else "{cpus: smp, tasks: mpi}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: write a mapping, as {example}")
    for key, value in given.items():
        if keys is not None and key not in keys:
            raise ConfigError(f"{where}: {key!r} is none of {', '.join(keys)}")
        if values is not None and value not in values:
            raise ConfigError(f"{where}.{key}: {value!r} is none of {', '.join(values)}")
        for name in (key, value):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ConfigError(f"{where}: {name!r} is no name; write a mapping, as {example}")
    return dict(given)
