"""One launch as words of a container engine: its name, its labels, what is mounted, what limits it.

The run folder appears in every container as `FOLDER`, the code of jobmill (for jobs in steps) read-only as `CODE`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmill.systems import launch_token
from jobmill.systems.container_rules import ContainerRules
from jobmill.systems.container_volume import Volume, below
from jobmill.systems.system import Submission, Token

FOLDER = "/jobmill"
CODE = "/jobmill.code"
PACKAGE = str(Path(__file__).parents[1])
SOCKETS = ("unix:///run/docker.sock", "unix:///run/podman/podman.sock")
LONG = 60_000  # bytes of a variable; an engine reads its file of variables by lines of 64 KiB
# what means something to an engine's own program, its loader or its runtime
_OWN = re.compile(
    r"(LD_|GO|DOCKER_|CONTAINER|BUILDKIT|XDG_|STORAGE_|SSL_|SSH_|GLIBC_)\w*|PATH|HOME|TMPDIR|\w+_proxy", re.I
)


class Unsuitable(Exception):
    """This launch can never become a container here; the message says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ContainerLaunch:
    """What `create` needs."""

    name: str
    words: tuple[str, ...]  # everything after `create`, but for the variables
    lines: str  # the file of variables
    variables: Mapping[str, str]  # those that no line can hold: the engine's program takes them from its environment


def name_of(token: Token) -> str:
    """Return the name of a launch's container: the same token, the same name."""
    _, job, run = launch_token.split(token)
    return f"jobmill-{job}.{run}-{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def labels_of(token: Token, system: str) -> dict[str, str]:
    """Return the labels by which a container is known as this launch of this system."""
    record = launch_token.record_and_arrival(launch_token.life_of(token))[0]
    return {"jobmill.token": token, "jobmill.record": record, "jobmill.system": system}


def plan(it: Submission, *, system: str, rules: ContainerRules, folder: str, podman: bool = False) -> ContainerLaunch:
    """Return the words that create the held container of a launch; raise Unsuitable. Asks nobody."""
    asked: Mapping[str, Any] = it.container or {}
    if asked.get("engine") not in (None, os.path.basename(rules.engine)):  # noqa: PTH119
        raise Unsuitable(f"container.engine: {asked['engine']} is wanted, system {system} has {rules.engine}")
    image = asked.get("image") or rules.image
    if not image:
        raise Unsuitable(f"system {system} has no usual image; name one in the job: container: {{image: …}}")
    network = asked.get("network") or rules.network[0]
    if network not in rules.network:
        raise Unsuitable(f"container.network: {network} is not allowed on system {system} ({', '.join(rules.network)})")
    if it.gpus and not rules.gpus:
        raise Unsuitable(f"resources.gpus: system {system} gives no GPUs (its option `gpus`)")
    volumes = _volumes(asked.get("volumes", ()), rules, system)
    workdir = _workdir(it, volumes, rules, folder, system)
    argv, reached = _redirected(it, folder), [path for path in (it.stdin, it.stdout, it.stderr) if path]
    for path in reached:
        if inside(path, folder) == path and not any(below(path, volume.target) for volume in volumes):
            raise Unsuitable(f"{path} is not seen in the container; keep it in the run folder, or on a volume")
    mounts = [_mount(folder, FOLDER, read_only=False)]
    mounts.append(
        _mount(f"{folder}/run", f"{FOLDER}/run", read_only=True)
    )  # our record of it is not the job's to write
    if asked.get("code"):
        mounts.append(_mount(PACKAGE, f"{CODE}/jobmill", read_only=True))
    mounts += [_mount(v.source, v.target, read_only=v.read_only, named=v.named) for v in volumes]
    options = {
        "--name": name_of(it.token),
        "--network": network,
        "--workdir": workdir,
        "--user": rules.user or f"{os.getuid()}:{os.getgid()}",
        "--pids-limit": str(rules.pids),
        "--security-opt": "no-new-privileges",
        "--log-driver": "k8s-file" if podman else "local",  # json-file would make text of the bytes
        "--cpus": str(it.cpus),
        "--entrypoint": "",
    }
    if not podman:
        options["--pull"] = "never"
    if it.memory:
        options |= {"--memory": f"{it.memory}m", "--memory-swap": f"{it.memory}m"}
    if it.gpus:
        options["--gpus"] = str(it.gpus)
    if rules.runtime:
        options["--runtime"] = rules.runtime
    labels = labels_of(it.token, system) | {"jobmill.steps": "1" if asked.get("code") else ""}
    if it.walltime:
        labels["jobmill.walltime"] = f"{it.walltime:g}"
    words = [f"{name}={value}" for name, value in options.items()]
    words += (
        ["--pull=never"] if podman else ["--log-opt=max-size=1000t", "--log-opt=max-file=1", "--log-opt=compress=false"]
    )  # a site's own bound would lose the beginning
    words += ["--init"] if rules.init else []
    words += ["--userns=keep-id"] if podman and os.getuid() else []
    words += [f"--label={name}={value}" for name, value in labels.items() if value]
    words += [f"--mount={mount}" for mount in mounts]
    lines, variables = _environment(_variables(it, rules, workdir))
    return ContainerLaunch(name=options["--name"], words=(*words, str(image), *argv), lines=lines, variables=variables)


def inside(path: str, folder: str) -> str:
    """Return a path of the host as the container sees it: below the run folder, else the same."""
    return FOLDER + path[len(folder) :] if below(path, folder) else path


def _volumes(texts: Iterable[str], rules: ContainerRules, system: str) -> list[Volume]:
    volumes: list[Volume] = []
    for text in texts:
        try:
            volume = rules.volumes.admit(Volume.parse(text))
        except ValueError as bad:
            raise Unsuitable(f"container.volumes: {bad}; `volumes` of system {system} names them") from None
        _without_socket(volume, rules)
        if any(volume.target == other.target for other in volumes):
            raise Unsuitable(f"container.volumes: two of them appear at {volume.target}; give each its own place")
        volumes.append(volume)
    return volumes


def _without_socket(volume: Volume, rules: ContainerRules) -> None:
    """Raise Unsuitable where the engine's own socket would be in the container: who has it is root on the host."""
    hosts = (rules.host, os.environ.get("DOCKER_HOST"), os.environ.get("CONTAINER_HOST"), *SOCKETS)
    for host in hosts:
        path = os.path.realpath((host or "").removeprefix("unix://"))
        if host and host.startswith("unix://") and not volume.named and below(path, volume.source):
            raise Unsuitable(
                f"container.volumes: the engine's socket {path} lies in {volume.source}; mount a folder without it"
            )


def _workdir(it: Submission, volumes: list[Volume], rules: ContainerRules, folder: str, system: str) -> str:
    """Return the working directory in the container; one of the host is mounted where the site allows it."""
    if it.workdir is None:
        return FOLDER
    if (seen := inside(it.workdir, folder)) != it.workdir:
        return seen
    workdir = os.path.normpath(it.workdir)
    if not any(below(workdir, volume.target) for volume in volumes):
        cover = rules.volumes.cover(workdir)
        if cover is None:
            raise Unsuitable(
                f"workdir: {workdir} is not seen in the container: system {system} does not let jobs mount it (its "
                "option `volumes`); a job with `container:` and without `workdir` runs in its run folder"
            )
        _without_socket(cover, rules)
        volumes.append(cover)
    seen_by = max((v for v in volumes if below(workdir, v.target)), key=lambda v: len(v.target))
    if not seen_by.named and not os.path.isdir(seen_by.source + workdir[len(seen_by.target) :]):  # noqa: PTH112
        raise Unsuitable(f"workdir: there is no folder {workdir}; make it, or leave workdir: out")  # an engine makes it
    return workdir


def _redirected(it: Submission, folder: str) -> tuple[str, ...]:
    """Return the command; with streams of its own it is put behind a shell of the image, which opens them."""
    opens: list[str] = []
    words: list[str] = []
    for sign, path in (("<", it.stdin), (">>", it.stdout), ("2>>", it.stderr)):
        if path and path != "/dev/null":
            words.append(inside(path, folder))
            opens.append(f'{sign}"${{{len(words)}}}"')
    if not opens:
        return tuple(it.argv)
    return ("/bin/sh", "-c", f'exec {" ".join(opens)}; shift {len(words)}; exec "$@"', "jobmill", *words, *it.argv)


def _mount(source: str, target: str, *, read_only: bool, named: bool = False) -> str:
    """Return the value of --mount, which engines read as a line of CSV; what is not there is an error, never made."""
    fields = [f"type={'volume' if named else 'bind'}", f"source={source}", f"target={target}"]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields + (["readonly"] if read_only else []))
    return line.getvalue()


def _variables(it: Submission, rules: ContainerRules, workdir: str) -> dict[str, str]:
    own = {
        "JOB_ID": it.job_id,
        "RUN": str(it.run),
        "CPUS": str(it.cpus),
        "WORKDIR": workdir,
        "RUN_FOLDER": FOLDER,
        "ERROR_FILE": f"{FOLDER}/error",
        "RETURN_FILE": f"{FOLDER}/return.json",
    }
    known = {"HOME": FOLDER, **rules.env, **{f"JOBMILL_{name}": value for name, value in own.items()}}
    return known | dict(it.env) | {"JOBMILL_TOKEN": it.token}


def _environment(variables: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the lines of an env file, and the variables that no line can hold. Nothing of it ever is in argv."""
    lines: list[str] = []
    beside: dict[str, str] = {}
    for name, value in variables.items():
        if not ({"\n", "\r"} & set(value)) and value.isprintable() and len(value.encode()) < LONG:
            lines.append(f"{name}={value}\n")
        elif _OWN.fullmatch(name):
            raise Unsuitable(f"env: {name} must be one line of at most {LONG} bytes: its name means something here")
        else:
            beside[name] = value
    return "".join(lines), beside


def words_of(launch: ContainerLaunch, env_file: str) -> Sequence[str]:
    """Return the whole command after the engine's name."""
    return ("create", f"--env-file={env_file}", *(f"--env={name}" for name in launch.variables), *launch.words)
