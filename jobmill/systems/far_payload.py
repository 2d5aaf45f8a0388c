"""What a far host gets of us: the guard, the runner, the desk and the stepper, as one small archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
FAR_SIDE = (  # every module of `systems` that also runs on hosts with nothing but Python 3.6
    "as_user",
    "batch_callback",
    "batch_files",
    "batch_job",
    "child_wait",
    "command_call",
    "far_desk",
    "far_files",
    "guard",
    "handover",
    "identity",
    "launch_token",
    "notices",
    "pilot_guard",
    "pilot_head",
    "pilot_line",
    "pilot_rank",
    "pilot_room",
    "pilot_watch",
    "process_tree",
    "run_folder",
    "runner",
    "slot_table",
    "spawn",
    "spool_launches",
    "step_progress",
    "streams",
    "switch",
    "watch",
)
STEPS = ("function_step", "lifeline", "step", "stepper")  # of `jobs`


@lru_cache(maxsize=1)
def payload() -> tuple[str, bytes]:
    """Return the digest (its first 16 hex digits) and the bytes of the archive; the same for the same sources."""
    names = ["__init__.py", "systems/__init__.py", "jobs/__init__.py"]
    names += [f"systems/{name}.py" for name in FAR_SIDE] + [f"jobs/{name}.py" for name in STEPS]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            text = (PACKAGE / name).read_bytes()
            member = tarfile.TarInfo(f"jobmill/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    data = gzip.compress(packed.getvalue(), mtime=0)  # not every Python has xz
    return hashlib.sha256(data).hexdigest()[:16], data
