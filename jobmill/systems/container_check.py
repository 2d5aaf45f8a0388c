"""What `doctor` finds out about a container engine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from jobmill.errors import SystemUnavailable
from jobmill.systems.container_engine import ContainerEngine
from jobmill.systems.container_rules import ContainerRules
from jobmill.systems.system import Check

_LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "cpus", "PidsLimit": "processes"}  # fields of `docker info`


def checks_of(engine: ContainerEngine, rules: ContainerRules, spool: Path) -> Sequence[Check]:
    """Ask the engine what it is and can; look for the usual image, and at the spool."""
    if not engine.installed():
        fix = f"install {rules.engine}, or name another program by `engine`"
        return [Check(name="engine", ok=False, detail=f"there is no program {rules.engine!r} here", fix=fix)]
    try:
        where = f" at {rules.host}" if rules.host else ""
        checks = [Check(name="engine", ok=True, detail=f"{rules.engine} {engine.version()}{where}")]
        if not engine.podman:
            facts = json.loads(engine.ask("info", "--format", "{{json .}}"))
            lacks = [word for field, word in _LIMITS.items() if not facts.get(field)]
            fix = "enable the cgroup controllers on the engine's host" if lacks else ""
            detail = f"cannot limit {', '.join(lacks)}" if lacks else "memory, cpus and processes can be limited"
            checks.append(Check(name="limits", ok=not lacks, detail=detail, fix=fix))
        if rules.image:
            here = engine.call("image", "inspect", "--format", "{{.Id}}", rules.image).code == 0
            fix = "" if here else f"{rules.engine} pull {rules.image}"
            words = rules.image if here else f"{rules.image} is not there, and jobs never pull"
            checks.append(Check(name="image", ok=here, detail=words, fix=fix))
    except (SystemUnavailable, ValueError, AttributeError) as error:
        return [Check(name="engine", ok=False, detail=str(error), fix="start it, or correct `host`; may we use it?")]
    usable = os.access(spool, os.W_OK) or (not spool.exists() and os.access(spool.parent, os.W_OK))
    fix = "" if usable else "make it writable for this user"
    return [*checks, Check(name="spool", ok=usable, detail=str(spool), fix=fix)]
