"""The parts of a spec: what it needs, when it is tried again, its steps, its inputs and its outputs."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from jobmill.jobs.spec_fields import (
    RUN_FOLDER_FILES,
    Check,
    Command,
    Count,
    Duration,
    File,
    FilePath,
    Files,
    Flag,
    Glob,
    Memory,
    Part,
    PlainMapping,
    PositiveDuration,
    Target,
    Word,
    matching,
    one_of,
    shown,
)
from jobmill.systems.container_volume import Volume

# the ends that may be tried again: what a scheduler or the exit record says, and the two plain ends of a program
RETRY_REASONS = (
    "oom",
    "timeout",
    "node_fail",
    "lost",
    "preempted",
    "submit_failed",
    "stage_failed",
    "failed",
    "signal",
)
MAX_DELAY = 86400.0  # seconds; backoff never waits longer than a day


def _retry_on(value: object) -> tuple[str, ...]:
    words = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(map(one_of(*RETRY_REASONS, "any"), words))


class Resources(Part):
    """What a job needs; None where it did not say."""

    cpus: Count | None = None
    memory: Memory | None = None  # MiB
    walltime: PositiveDuration | None = None  # seconds
    gpus: Annotated[int, Field(strict=True, ge=0, le=100_000)] | None = None
    nodes: Count | None = None
    tasks: Count | None = None


class Retry(Part):
    """How often and when a run that ended badly is tried again."""

    max: Annotated[int, Field(strict=True, ge=0, le=1000)] = 1  # runs after the first
    delay: Duration = 30.0  # seconds before the second run
    backoff: Annotated[float, Field(strict=True, ge=1, le=100, allow_inf_nan=False)] = (
        2.0  # factor for each further run
    )
    on: Annotated[tuple[str, ...], Check(_retry_on)] = ("oom", "timeout", "node_fail", "preempted", "lost")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """Let ``retry: 3`` mean ``retry: {max: 3}``."""
        if isinstance(value, Mapping) and "escalate" in value:
            raise ValueError("escalate is not supported in this version of jobmill; take it out")
        return {"max": value} if type(value) is int else value

    def covers(self, reason: str) -> bool:
        """Say whether a run that ended for ``reason`` (one of RETRY_REASONS) may be tried again."""
        return reason in self.on or "any" in self.on

    def wait(self, run: int) -> float:
        """Return the seconds between the end of run number ``run`` (from 1) and the next start, at most a day."""
        # capped before the power, which would overflow
        return min(self.delay * self.backoff ** min(run - 1, 100), MAX_DELAY)


class Input(Part):
    """A file or folder to be brought to where the job runs."""

    source: FilePath = Field(
        alias="from"
    )  # absolute once a client has sent it; else relative to the submitter's folder
    to: Target | None = None  # below the working directory; None: under its own name

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """Let plain text mean the file."""
        return {"from": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _named(self) -> Input:
        if self.to is None and self.target in ("", ".", "..", "~"):
            raise ValueError(f"{shown(self.source)} has no name of its own; say to:")
        return self

    @property
    def target(self) -> str:
        """Where it comes, relative to the working directory."""
        return self.to or posixpath.basename(self.source.rstrip("/"))


class Output(Part):
    """Files to keep, by glob below the working directory."""

    glob: Glob
    required: Flag = True  # nothing matches: the job failed

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """Let plain text mean the glob."""
        return {"glob": value} if isinstance(value, str) else value


def _volume(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text such as /data:/data:ro")
    return Volume.parse(value).text()


def _volumes(value: object) -> tuple[str, ...]:
    return tuple(map(_volume, value if isinstance(value, (list, tuple)) else (value,)))


class Container(Part):
    """The container that a job runs in; None where the system decides."""

    image: Annotated[str, Check(matching(
        r"(?!-)[^\s\x00-\x20\x7f-\x9f]{1,1024}", "is no image; write name:tag, an address, or the path of an image file"
    ))] | None = None  # fmt: skip
    engine: Annotated[str, Check(one_of("docker", "podman", "apptainer"))] | None = None
    volumes: Annotated[tuple[str, ...], Check(_volumes)] = ()  # source:target[:ro]
    network: Word | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """Let plain text mean the image."""
        return {"image": value} if isinstance(value, str) else value


class Step(Part):
    """One command or function of a job that runs several, in order."""

    name: File  # unique in the job; `step-N` when none was given
    command: Command | None = None
    function: Annotated[str, Check(matching(
        r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", "must be 'package.module:function'"
    ))] | None = None  # fmt: skip
    inputs: PlainMapping = Field(default_factory=dict)  # arguments of the function by name
    outputs: Files = ()  # names of what it returns
    log: File | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Step:
        if (self.command is None) == (self.function is None):
            raise ValueError("needs one of command and function" + (", not both" if self.command else ""))
        if self.log_file in RUN_FOLDER_FILES:
            raise ValueError(
                f"its log {self.log_file!r} is a file that the run itself writes; set log: to another name"
            )
        return self

    @property
    def log_file(self) -> str:
        """Name of its log in the run folder."""
        return self.log or f"{self.name}.log"
