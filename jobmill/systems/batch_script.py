"""What a batch job consists of: the launch as the nodes read it, our library on the file system that they share."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from jobmill.systems.far_payload import payload
from jobmill.systems.system import Submission

# of ours in the run folder, beside run_folder.RESERVED
FILES = frozenset({"launch", "script", "native.log", "hastened", "wish"})


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


def launch(it: Submission, env: Mapping[str, str]) -> str:
    """Return the text of the file `launch`: what every job of the system sees, and a line for the runner."""
    fields = (list(it.argv), it.workdir, dict(it.env), it.stdin, it.stdout, it.stderr, dict(it.files), it.walltime)
    words = json.dumps((*fields, *([it.staged] if it.staged else [])))
    return f"{json.dumps(dict(env))}\n{it.token} {max(1, it.cpus)} {words}\n"
