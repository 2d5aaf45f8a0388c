"""The token of a launch as a job's name, which Grid Engine tells in its queue and in its books.

``rec.5:align-7:1`` is ``j.align-7+1+rec.5``: a name may have no ``:`` and not begin with a digit (sge_types(5),
"object_name"), and the first ten characters are what `qstat` shows people.
"""

from __future__ import annotations

import re

from jobmill.systems import launch_token
from jobmill.systems.system import Token

_NAME = re.compile(r"j\.([A-Za-z0-9][A-Za-z0-9._-]*)\+([0-9]{1,6})\+((?:[A-Za-z0-9._-]|=[0-9a-f]{2})+)", re.ASCII)
_STRANGE = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)


def name_of(token: Token) -> str:
    """Return the job's name."""
    life, job, run = launch_token.split(token)
    quoted = _STRANGE.sub(lambda found: "".join(f"={byte:02x}" for byte in found[0].encode()), life)
    return f"j.{job}+{run}+{quoted}"


def token_of(name: str) -> Token:
    """Return the token of a name, "" for one that is not ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return ""
    raw = re.sub(rb"=([0-9a-f]{2})", lambda it: bytes([int(it[1], 16)]), found[3].encode())
    return f"{raw.decode('utf-8', 'replace')}:{found[1]}:{found[2]}"
