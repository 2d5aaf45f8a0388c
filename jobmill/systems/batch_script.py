"""What a batch job consists of: the launch in its run folder, our library on the file system that the nodes share."""

from __future__ import annotations

import io
import json
import os
import secrets
import shlex
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from jobmill.systems import run_folder
from jobmill.systems.far_payload import payload
from jobmill.systems.notices import Notices
from jobmill.systems.system import Submission

FILES = frozenset({"launch", "script", "native.log"})  # of ours in the run folder, beside run_folder.RESERVED
_START = "import sys; sys.path.insert(0, sys.argv[5]); from jobmill.systems.batch_job import main; main()"


def library(spool: Path) -> Path:
    """Return the folder with what the nodes need of us; made on the first call, whole or not at all. Raises OSError."""
    digest, data = payload()
    place = spool / "lib" / digest
    if not place.is_dir():
        own = spool / "lib" / f".{digest}.{secrets.token_hex(6)}"
        own.mkdir(parents=True, mode=0o755)
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
                archive.extractall(own, filter="data")
            own.rename(place)
        except OSError:
            shutil.rmtree(own, ignore_errors=True)
            if not place.is_dir():  # else another was first
                raise
    return place


def write(
    it: Submission,
    spool: Path,
    *,
    system: str,
    scheduler: str,
    variable: str,
    python: str,
    grace: float,
    env: Mapping[str, str],
    redirect: bool = False,
) -> tuple[str, str]:
    """Write the launch into its run folder; return that folder and the text of the script that starts it.

    ``system``: its name in the configuration; ``variable``: in which the scheduler tells the job its own id;
    ``redirect``: the script itself sends what it and our program say into `native.log`. Raises run_folder.Superseded
    and OSError.
    """
    folder = os.fsdecode(run_folder.enter(os.fsencode(spool), it.token))
    fields = (list(it.argv), it.workdir, dict(it.env), it.stdin, it.stdout, it.stderr, dict(it.files), it.walltime)
    launch = (*fields, *([it.staged] if it.staged else []))
    line = f"{it.token} {max(1, it.cpus)} {json.dumps(launch)}\n"
    _put(f"{folder}/launch", f"{json.dumps(dict(env))}\n{line}", 0o600)
    place = library(spool)
    Notices(os.fsencode(spool), system).make()
    words = [python, "-I", "-S", "-c", _START, str(spool), it.token, scheduler, variable, str(place)]
    words += [f"{grace:g}", system]
    log = f"exec >>{shlex.quote(f'{folder}/native.log')} 2>&1\n" if redirect else ""
    text = f"#!/bin/sh\n# jobmill {it.token}\n{log}exec {shlex.join(words)}\n"
    _put(f"{folder}/script", text, 0o644)
    return folder, text


def _put(path: str, text: str, mode: int) -> None:
    """Write a file whole: who submits the same launch again finds the old one or the new one."""
    own = f"{path}.{secrets.token_hex(6)}"
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        Path(own).rename(path)
    except OSError:
        Path(own).unlink(missing_ok=True)
        raise
