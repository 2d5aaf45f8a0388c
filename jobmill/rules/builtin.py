"""The built-in rules. Each answers None for yes, or the reason for no in words that a user can act on."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Annotated

from pydantic import BeforeValidator

from jobmill.jobs.quantity import format_duration, format_memory, parse_duration, parse_memory
from jobmill.jobs.spec import JobSpec

Words = str | Sequence[str]  # one word or a list of them, any of which will do
Memory = Annotated[int, BeforeValidator(parse_memory)]  # MiB
Duration = Annotated[float, BeforeValidator(parse_duration)]  # seconds


def user_is(job: JobSpec, *, users: Words) -> str | None:
    """The job's owner is one of ``users``."""
    return _is_one_of("user", job.user, users)


def project_is(job: JobSpec, *, projects: Words) -> str | None:
    """The job's project is one of ``projects``."""
    return _is_one_of("project", job.project, projects)


def queue_is(job: JobSpec, *, queues: Words) -> str | None:
    """The job asks for one of ``queues``."""
    return _is_one_of("queue", job.queue, queues)


def class_is(job: JobSpec, *, classes: Words) -> str | None:
    """The job's ClassType is one of ``classes``."""
    return _is_one_of("ClassType", job.class_type, classes)


def name_matches(job: JobSpec, *, patterns: Words) -> str | None:
    """The job's name matches one of the shell ``patterns`` (``align-*``), letter case counts."""
    for pattern in _listed(patterns):
        if fnmatch.fnmatchcase(job.name or "", pattern):
            return None
    return f"name is {_shown(job.name)}, not {_any_of(patterns)}"


def tag_is(job: JobSpec, *, tags: Words) -> str | None:
    """The job carries at least one of ``tags``."""
    if set(job.tags or ()) & set(_listed(tags)):
        return None
    return f"tags are {', '.join(job.tags) if job.tags else 'not given'}, none of them {_any_of(tags)}"


def resources_within(
    job: JobSpec,
    *,
    cpus: int | None = None,
    memory: Memory | None = None,
    walltime: Duration | None = None,
    gpus: int | None = None,
    nodes: int | None = None,
    tasks: int | None = None,
) -> str | None:
    """The job asks for at most this much; the units are the job file's (memory: MiB or ``8G``; walltime: s or ``2h``).

    A job that does not say how much memory or walltime it needs may need any amount: where that is limited, it is
    refused.
    """
    asked = job.resources
    for name, amount, limit in (
        ("cpus", asked.cpus, cpus),
        ("gpus", asked.gpus, gpus),
        ("nodes", asked.nodes, nodes),
        ("tasks", asked.tasks, tasks),
    ):
        if limit is not None and (amount or 0) > limit:
            return f"{name} is {amount}, at most {limit}"
    if memory is not None:
        if asked.memory is None:
            return f"memory is not given, at most {format_memory(memory)}; add `resources: {{memory: …}}`"
        if asked.memory > memory:
            return f"memory is {format_memory(asked.memory)}, at most {format_memory(memory)}"
    if walltime is not None:
        if asked.walltime is None:
            return f"walltime is not given, at most {format_duration(walltime)}; add `resources: {{walltime: …}}`"
        if asked.walltime > walltime:
            return f"walltime is {format_duration(asked.walltime)}, at most {format_duration(walltime)}"
    return None


def _listed(words: Words) -> Sequence[str]:
    return (words,) if isinstance(words, str) else words


def _any_of(words: Words) -> str:
    return " or ".join(f"'{word}'" for word in _listed(words))


def _shown(value: str | None) -> str:
    return "not given" if value is None else f"'{value}'"


def _is_one_of(what: str, value: str | None, words: Words) -> str | None:
    return None if value in _listed(words) else f"{what} is {_shown(value)}, not {_any_of(words)}"
