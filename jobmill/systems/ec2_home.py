"""The note in a run folder here that its files have come home: the instance that had them may be gone by now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jobmill.systems.place import Here
from jobmill.systems.staging import told
from jobmill.systems.system import Token

NOTE = "home"


@dataclass(frozen=True, kw_only=True)
class Home:
    """What came home of a launch."""

    token: Token
    globs: tuple[str, ...]  # that were looked for there
    unmatched: tuple[str, ...]  # those of them that matched nothing

    @classmethod
    def read(cls, folder: Path, token: Token, globs: Sequence[str]) -> Home | None:
        """Return the note of this launch if all that ``globs`` match is home; None: it has to be brought."""
        try:
            found = json.loads((folder / NOTE).read_bytes())
            note = cls(token=found["token"], globs=tuple(found["globs"]), unmatched=tuple(found["unmatched"]))
        except (OSError, ValueError, TypeError, LookupError):  # torn it cannot be; a job may have brought one like it
            return None
        return note if note.token == token and set(globs) <= set(note.globs) else None

    def write(self, folder: Path) -> None:
        """Leave the note, for good; raise as staging does."""
        here, path = Here(durable=True), str(folder / NOTE)
        with told(path):
            here.write(f"{path}.new", [json.dumps(asdict(self)).encode()], 0o644)
            here.rename(f"{path}.new", path, replace=True)
