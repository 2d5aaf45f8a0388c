"""What `jobmill lint` says of files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobmill.config import load
from jobmill.errors import JobmillError
from jobmill.jobs.job_file import read_documents, read_specs
from jobmill.jobs.spec import JobSpec
from jobmill.screen import terminal

OURS = {"systems", "routes", "capacities", "limits", "redis", "spool"}  # top-level keys that no job has


def lint(files: Sequence[str], *, as_json: bool) -> int:
    """Check each file; return 2 when one is wrong."""
    wrong = 0
    for name in files:
        told: dict[str, Any] = {"file": name, "kind": "job", "ok": True, "jobs": 0, "problems": []}
        try:
            if _is_configuration(name):
                told["kind"] = "configuration"
                _check_configuration(Path(name))
            else:
                told["jobs"] = _check_jobs(name)
        except JobmillError as error:
            wrong += 1
            told |= {"ok": False, "problems": str(error).splitlines()}
        if as_json:
            terminal.say_json(told)
        elif told["ok"]:
            count = f", {told['jobs']:,} jobs" if told["jobs"] != 1 and told["kind"] == "job" else ""
            terminal.say(f"{name}: {terminal.paint('ok', 'green')} ({told['kind']}{count})")
        else:
            for problem in told["problems"]:
                terminal.say(terminal.clean(problem))
    return 2 if wrong else 0


def _is_configuration(name: str) -> bool:
    if name == "-":
        return False
    if Path(name).name in ("jobmill.yaml", "jobmill.yml"):
        return True
    try:
        documents = read_documents(name)
    except JobmillError:
        return False  # said again, in full, by the check of jobs
    return any(
        OURS & document.data.keys() and not {"command", "steps"} & document.data.keys() for document in documents
    )


def _check_configuration(path: Path) -> None:
    """Read it whole, find its systems and rules, build each system; raise ConfigError."""
    from jobmill.daemon.diagnosis import built
    from jobmill.manager.sites import Sites
    from jobmill.rules.site import load_site_plugins

    environ = {key: value for key, value in os.environ.items() if key != "JOBMILL_REDIS_URL"}
    config = load(path, environ=environ)
    load_site_plugins(path.absolute())
    problems = []
    for name in config.systems:
        try:
            built(config, name)
        except JobmillError as error:
            problems.append(f"{path}: {error}")
    try:
        Sites(config).dispatcher()
    except JobmillError as error:
        if not problems:
            problems.append(f"{path}: {error}")
    if problems:
        from jobmill.errors import ConfigError

        raise ConfigError("\n".join(problems))


def _check_jobs(name: str) -> int:
    specs = read_specs(name)
    ids = [spec.id for spec in specs if spec.id is not None]
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(ids) < 5000 else []
    if twice:
        from jobmill.errors import SpecError

        raise SpecError(f"{name}: id: {', '.join(twice)} stands in several documents; give each its own, or none")
    _check_routes(name, specs)
    return len(specs)


def _check_routes(name: str, specs: Sequence[JobSpec]) -> None:
    """Ask the rules where each job would go; raise SpecError for those that would be refused."""
    from jobmill.errors import SpecError
    from jobmill.manager.sites import Sites
    from jobmill.rules.site import load_site_plugins

    try:
        config = load()
        load_site_plugins(config.source)
        dispatcher = Sites(config).dispatcher()
    except JobmillError:
        return  # where it would go cannot be said: the configuration is wrong, which is not this file's fault
    problems = []
    for number, spec in enumerate(specs, 1):
        choice = dispatcher.choose(spec)
        if choice.system is None:
            which = spec.id or spec.name or f"document {number}"
            problems.append(f"{name}: {which}: {choice.message}")
    if problems:
        raise SpecError("\n".join(problems))
