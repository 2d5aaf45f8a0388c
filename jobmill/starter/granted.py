"""One entry of Granted_Queue: a granted job, as the grant wrote it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from jobmill.jobs.identifier import ID_PATTERN

_ID = re.compile(ID_PATTERN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    """A job that may be launched under this fence."""

    job_id: str
    fence: int
    run: int
    arrival: int  # under which the job was admitted; 0: granted by an older version
    system: str
    spec: str  # canonical text, spliced in by the grant and never parsed on the way

    @classmethod
    def read(cls, entry: bytes) -> Granted | None:
        """Return the job of an entry, or None where it is none."""
        head, found, spec = entry.partition(b',"spec":')
        try:
            row = json.loads(head + b"}")
            if not found or not spec.endswith(b"}"):
                return None
            if _ID.fullmatch(row["id"]) is None:
                return None
            return cls(
                job_id=row["id"],
                fence=int(row["fence"]),
                run=int(row["run"]),
                arrival=int(row.get("arrival", 0)),
                system=str(row["system"]),
                spec=spec[:-1].decode(),
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
