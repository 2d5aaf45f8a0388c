"""What is claimed of any bytes, checked in one process: only our own errors, one canonical form, bounded time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from jobmill.config import Config, RedisConfig, SystemConfig
from jobmill.errors import JobmillError
from jobmill.jobs.document import Document, load
from jobmill.jobs.registry import class_for
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.terms import judging_terms
from jobmill.ledger.admission import Entry, Refusal
from jobmill.manager.intake import Intake, Stream
from jobmill.manager.needs import Needs
from jobmill.manager.sites import Sites
from jobmill.rules.dispatcher import Dispatcher
from jobmill.systems import container_launch
from jobmill.systems.container_template import ContainerTemplate
from jobmill.systems.docker import DockerSystem
from jobmill.systems.local import LocalSystem
from jobmill.systems.system import Submission

LIMIT = 1 << 16  # bytes of a document
LONGEST = 40_000  # characters of a reason


SPOOL = Path("/nonexistent")
CONFIG = Config(
    redis=RedisConfig(),
    state=SPOOL,
    spool=SPOOL,
    systems={"local": SystemConfig(name="local", kind="local", slots=4)},
)
LOCAL = LocalSystem(name="local", spool=SPOOL, slots=4, container=ContainerTemplate.of("local", "apptainer"))
DOCKER = DockerSystem.build("docker", {"image": "x", "volumes": ["/d"], "gpus": True}, SPOOL)


@cache
def intake(dispatcher: Dispatcher | None = None) -> Intake:
    """Return the intake of a manager with one local system."""
    sites = Sites(CONFIG)
    needs = Needs(sites.sets)
    needs.limits = {"local.cpus": 4, "local.memory": 1 << 20, "local.gpus": 0, "User:ann": 2}
    return Intake(CONFIG, dispatcher or sites.dispatcher(), needs)


def check(data: bytes) -> float:
    """Raise AssertionError, or whatever came out that must not; return the CPU seconds of one reading."""
    began = time.process_time()
    try:
        found: Sequence[Document] = load(data, limit=LIMIT)
    except JobmillError as error:
        _told(str(error))
        found = ()
    specs = [spec for document in found if (spec := _spec(document))]
    seconds = time.process_time() - began
    if len(found) > 1:
        _stands_alone(data, found)
    for spec in specs:
        _one_form(spec)
        _prepared(spec)
    _admitted(data)
    return seconds


def _spec(document: Document) -> JobSpec | None:
    try:
        return JobSpec.parse(document)
    except JobmillError as error:
        _told(str(error))
        return None


def _told(reason: str) -> None:
    assert reason.strip(), "a refusal without a reason"
    assert len(reason) < LONGEST, f"a reason of {len(reason)} characters"
    reason.encode()
    assert reason.replace("\n", "").isprintable(), f"a reason that cannot be shown: {reason[:300]!r}"


def _stands_alone(data: bytes, found: Sequence[Document]) -> None:
    """A stream's texts are the stream as it was, and each alone is one document that means the same."""
    assert "".join(document.entry for document in found) == data.decode().removeprefix("\ufeff"), (
        "a stream's text is lost"
    )
    for document in found:
        if document.entry.lstrip().startswith("{"):
            continue  # alone it takes the fast path, which knows more of numbers and escapes than YAML 1.1
        alone = load(document.entry.encode(), limit=LIMIT)
        assert [one.data for one in alone] == [document.data], f"{document.entry!r} alone is something else"


def _one_form(spec: JobSpec) -> None:
    canonical = spec.canonical()
    assert "\n" not in canonical
    assert JobSpec.from_canonical(canonical).canonical() == canonical, canonical[:500]
    (pushed,) = load(canonical.encode(), limit=1 << 30)
    assert JobSpec.parse(pushed).canonical() == canonical, canonical[:500]


def _prepared(spec: JobSpec) -> None:
    """What a starter makes of it can be handed to the kernel, or is refused in words."""
    json.dumps(judging_terms(spec))
    for system in (LOCAL, DOCKER):
        kind = class_for(None, system.kind)
        try:
            ready = kind(spec, job_id="x", run=1, record="r", system=system, spool=str(SPOOL)).prepare()
            if system is DOCKER:
                made = container_launch.plan(ready, system="docker", rules=DOCKER.rules, folder=f"{SPOOL}/jobs/x/run.1")
                ready = replace(ready, argv=made.words, env=made.variables, files={"env": made.lines})
        except (JobmillError, ValueError, container_launch.Unsuitable) as error:
            _told(str(error))
            continue
        _given(ready)


def _given(ready: Submission) -> None:
    words = [*ready.argv, *ready.env, *ready.env.values(), *ready.files.values()]
    words += [word for word in (ready.workdir, ready.stdin, ready.stdout, ready.stderr, ready.name) if word]
    for word in words:
        assert b"\0" not in os.fsencode(word)


def _admitted(data: bytes) -> None:
    answer = intake().read(data, "Job_Queue")
    if isinstance(answer, Stream):
        assert len(answer.documents) > 1
        return
    values = answer.values() if isinstance(answer, Entry) else answer.values(0.0)
    assert len(values) == 12
    for value in values:
        str(value).encode()
    if isinstance(answer, Refusal):
        _told(answer.reason)
        assert "in jobmill itself" not in answer.reason, answer.reason
        assert "\n" not in str(values[1])
