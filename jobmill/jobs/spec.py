"""What a job is: one document, checked whole, in one canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from jobmill.errors import SpecError
from jobmill.jobs.document import Document
from jobmill.jobs.identifier import ID_PATTERN, new_id
from jobmill.jobs.spec_fields import (
    OWN_FILES,
    Check,
    Command,
    Env,
    FilePath,
    Flag,
    Ids,
    Inherit,
    JobId,
    Modules,
    Moment,
    Name,
    Part,
    PlainMapping,
    SystemName,
    Text,
    Word,
    Words,
    matching,
    one_of,
    shown,
)
from jobmill.jobs.spec_keys import Arranged, apply_settings
from jobmill.jobs.spec_parts import RETRY_REASONS, Container, Input, Output, Resources, Retry, Step
from jobmill.jobs.spec_problems import Problem, message, problems_of

__all__ = [
    "ID_PATTERN",
    "RETRY_REASONS",
    "Container",
    "Input",
    "JobSpec",
    "Output",
    "Resources",
    "Retry",
    "Step",
    "apply_settings",
    "new_id",
]

_ONCE = Retry(max=0)
_ANY = Resources()


class JobSpec(Part):
    """One job as its user described it (design, section 4); None where nothing was said.

    Make it by `parse`, which also checks what several keys say together. Frozen; the canonical text of two specs is the
    same when they say the same.
    """

    id: JobId | None = None
    name: Name | None = None
    command: Command | None = None  # text runs in /bin/sh, a tuple is argv; None: there are steps
    class_type: Annotated[
        str,
        Check(matching(r"[A-Za-z][A-Za-z0-9_]{0,63}", "is no class name; write Local, Cluster …")),
    ] | None = Field(default=None, alias="ClassType")  # fmt: skip
    system: SystemName | None = None  # a system's name in the configuration
    workdir: FilePath | None = None
    submit_dir: FilePath | None = None  # where `submit` was typed, when that is all that there is to `workdir`
    env: Env = Field(default_factory=dict)
    modules: Modules = ()  # environment modules, loaded in this order
    inherit_env: Inherit = ()  # names of variables, or True for all
    stdin: FilePath | None = None
    stdout: FilePath | None = None
    stderr: FilePath | None = None
    resources: Resources = _ANY
    queue: Word | None = None
    account: Word | None = None
    native: Text | None = None  # goes to the scheduler untouched
    user: Word | None = None
    project: Word | None = None
    tags: Words = ()
    priority: Annotated[int, Field(strict=True, ge=-1000, le=1000)] = 0  # higher goes first among one user's own
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    steps: tuple[Step, ...] = ()
    container: Container | None = None
    retry: Retry = _ONCE
    depends_on: Ids = ()
    after: Annotated[str, Check(one_of("ok", "any", "failed"))] = "ok"  # which ends of these count
    params: PlainMapping = Field(default_factory=dict)
    hold: Flag = False
    start_after: Moment | None = None  # Unix time, seconds

    @field_validator("inputs", "outputs", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """Let a single input or output stand without brackets."""
        return (value,) if isinstance(value, (str, Mapping)) else value

    @classmethod
    def parse(cls, document: Mapping[str, Any] | Document, *, where: str = "") -> JobSpec:
        """Return the spec of a document; raise SpecError that lists every problem, a line each.

        ``where`` stands before each problem; a Document brings its own name and the lines.
        """
        known = document if isinstance(document, Document) else None
        raw = document.data if isinstance(document, Document) else document
        if type(raw) is not dict and not isinstance(raw, Mapping):
            raise SpecError(message([((), "a job must be a mapping of key: value")], None, where))
        arranged = Arranged(raw)
        values = arranged.values
        if known is not None and "env" in values:
            values["env"] = _env_as_written(values["env"], known)
        problems: list[Problem] = arranged.problems
        try:
            spec = cls.__pydantic_validator__.validate_python(values)
        except ValidationError as error:
            problems += [(arranged.path(path), words) for path, words in problems_of(error, _KEYS)]
        problems += _contradictions(values)
        if problems:
            raise SpecError(message(problems, known, where or (known.where if known else "")))
        result: JobSpec = spec
        return result

    @classmethod
    def from_canonical(cls, text: str | bytes) -> JobSpec:
        """Return the spec of `canonical` text; raise SpecError when it is none. Checks single keys only."""
        try:
            spec: JobSpec = cls.__pydantic_validator__.validate_json(text)
        except ValidationError as error:
            raise SpecError(message(problems_of(error, _KEYS), None, "canonical spec")) from None
        return spec

    def canonical(self) -> str:
        """Return one line of JSON: canonical keys in a fixed order, only what was given; seconds and MiB as numbers."""
        text: bytes = self.__pydantic_serializer__.to_json(self, exclude_unset=True)
        return text.decode()

    def with_(self, **changes: Any) -> JobSpec:
        """Return the spec with other values, checked as in a document; None takes a value out.

        Values that the spec has already may be passed as they are. Raise SpecError for what cannot be.
        """
        own = self.__dict__
        values = {name: own[name] for name in self.model_fields_set}
        if "class_type" in values:
            values["ClassType"] = values.pop("class_type")
        if "ClassType" in changes or "class_type" in changes:
            values.pop("ClassType", None)
        for name in changes:
            values.pop(name, None)
        return self.parse({**values, **changes})


_KEYS = {
    "": tuple(field.alias or name for name, field in JobSpec.model_fields.items()),
    "resources": tuple(Resources.model_fields),
    "retry": tuple(Retry.model_fields),
    "inputs": ("from", "to"),
    "outputs": tuple(Output.model_fields),
    "container": tuple(Container.model_fields),
    "steps": tuple(Step.model_fields),
}


def _env_as_written(env: Any, document: Document) -> Any:
    """Undo YAML's reading of ``VERSION: 3.10`` and ``DEBUG: yes``, which are text to a program."""
    if not isinstance(env, dict) or {bool, float}.isdisjoint(map(type, env.values())):
        return env
    texts = dict(env)
    for name, value in env.items():
        if isinstance(value, (bool, float)):
            text = document.written(("env", name))
            texts[name] = value if text is None else text
    return texts


def _contradictions(values: Mapping[str, Any]) -> list[Problem]:
    """Find what several keys say together and cannot be."""
    problems: list[Problem] = []
    steps = values.get("steps")
    if "command" in values:
        if "steps" in values:
            problems.append((("steps",), "stands beside command; a job has one of the two"))
    elif "steps" not in values:
        problems.append(((), "says nothing to run; give command: or steps:"))
    elif isinstance(steps, (list, tuple)):
        problems += _step_names(steps)
    if values.get("modules") and "container" in values:
        problems.append((("modules",), "are the host's, which a container does not see; take them out"))
    if values.get("inputs"):
        problems += _targets(values)
    others = values.get("depends_on")
    if values.get("id") is not None and values["id"] in (others if isinstance(others, (list, tuple)) else (others,)):
        problems.append((("depends_on",), "names the job itself; name other jobs"))
    if "after" in values and "depends_on" not in values:
        problems.append((("after",), "says how depends_on counts; give depends_on: as well"))
    return problems


def _targets(values: Mapping[str, Any]) -> list[Problem]:
    """Find inputs that come to one place, or to one that the run folder needs itself."""
    given = values["inputs"]
    problems: list[Problem] = []
    taken: dict[str, None] = {}
    folders: dict[str, None] = {}  # that others come into
    for number, item in enumerate(given if isinstance(given, (list, tuple)) else (given,)):
        try:
            target = (item if isinstance(item, Input) else Input.model_validate(item)).target
        except ValidationError:
            continue  # told by the field itself
        place: tuple[str | int, ...] = ("inputs", number) if isinstance(given, (list, tuple)) else ("inputs",)
        above = [target[:at] for at, sign in enumerate(target) if sign == "/"]
        if target in taken or target in folders or not taken.keys().isdisjoint(above):
            problems.append((place, f"comes to {shown(target)}, where another input comes as well; say to:"))
        name = target.partition("/")[0]
        if "workdir" not in values and (name in OWN_FILES or name.startswith("run.")):
            problems.append((place, f"comes to {shown(target)}, which the run itself writes; say to: or workdir:"))
        taken[target] = None
        folders.update(dict.fromkeys(above))
    return problems


def _step_names(steps: list[Any] | tuple[Any, ...]) -> list[Problem]:
    problems: list[Problem] = []
    if not steps:
        problems.append((("steps",), "is an empty list; give at least one step, or a command"))
    names: set[str] = set()
    logs: set[str] = set()
    for number, step in enumerate(steps):
        given = step if isinstance(step, Mapping) else step.__dict__ if isinstance(step, Step) else {}
        name = given.get("name")
        if isinstance(name, str):
            log = str(given.get("log") or f"{name}.log")  # text or not: this looks at what was written
            if name in names:
                words = f"{shown(name)} is the name of an earlier step; use another"
                problems.append((("steps", number, "name"), words))
            elif log in logs:
                problems.append((("steps", number, "log"), "is the log of an earlier step; use another"))
            names.add(name)
            logs.add(log)
    return problems
