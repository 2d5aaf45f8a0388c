"""One entry of a job's ``steps:``, as the stepper runs it; standard library only, Python 3.6 or later."""

# (it runs on hosts that have nothing but Python 3.6)

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What jobmill itself keeps in a run folder: a log there would destroy the record.
RESERVED = {"run", "spawned", "switch", "steps", "job.yaml", "script", "stdout", "stderr", "error", "return.json"}
RESERVED.update(("outputs", "outputs.json"))
OWN_FILE = re.compile(r"step\.\d+\.(call|outputs|error)\Z")
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")


class BadSteps(Exception):
    """The steps cannot be run as they are written; the message says which and what to do."""


class Step:
    """One entry of ``steps:``, checked."""

    def __init__(self, number: int, total: int, entry: "Any") -> None:
        where = f"step {number}/{total}"
        if not isinstance(entry, dict):
            raise BadSteps(f"{where}: must be a mapping with `command` or `function`")
        self.number = number
        self.name = re.sub(r"\s+", "_", str(entry.get("name") or f"step-{number}"))
        self.label = f"{number}/{total} {self.name}"
        self.command = entry.get("command")
        self.function = entry.get("function")
        self.inputs: dict[str, Any] = entry.get("inputs") or {}
        self.outputs = [str(name) for name in entry.get("outputs") or ()]
        self.log = str(entry.get("log") or self.name.replace("/", "_") + ".log")
        if bool(self.command) == bool(self.function):
            raise BadSteps(f"step {self.label}: needs either `command` or `function`")
        if self.function and not FUNCTION.match(str(self.function)):
            raise BadSteps(f"step {self.label}: function '{self.function}' is not of the form pkg.mod:call")
        if not isinstance(self.inputs, dict):
            raise BadSteps(f"step {self.label}: inputs must be a mapping of names to values")
        if os.path.normpath(self.log) in RESERVED or OWN_FILE.match(self.log):
            raise BadSteps(f"step {self.label}: log '{self.log}' is a file of jobmill's own; choose another name")


def checked(job: "dict[str, Any]") -> "list[Step]":
    """Return the steps of a job; raise BadSteps for anything that would only fail half way."""
    entries = job.get("steps") or []
    steps = [Step(number, len(entries), entry) for number, entry in enumerate(entries, 1)]
    if not steps:
        raise BadSteps("job.yaml holds no steps")
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            raise BadSteps(f"step {step.label}: an earlier step has this name; each needs its own")
        seen.add(step.name)
    return steps
