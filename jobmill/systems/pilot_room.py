"""What is known of one allocation: the files of ``<pilot>/allocations/<number>/``.

Standard library only, Python 3.6 and later. Making the folder exclusively is the right to ask for the allocation:

    terms     JSON, what its ranks have to know (`pilot_options`)
    native    the scheduler's id, once it is known
    began     Unix time at which its first program began there
    rank.<r>  JSON, how a rank is; written anew every `BEAT` seconds
    busy      its time changes as long as any rank has something to do
    stop      when it is there, the ranks start nothing more
    taken     when it is there, the allocation is being taken away, and the ranks end what runs
    ended     JSON, how it ended and who said so; the first word counts
    script, native.log   what the scheduler was given, and what was said there; ranks.log: by the ranks
"""

import json
import os
import time

from jobmill.systems import pilot_line
from jobmill.systems.pilot_line import ALLOCATIONS, Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BEAT = 2.0  # seconds between two signs of life of a rank
SILENT = 20.0  # seconds without one after which a rank is not taken for alive
UP, LEAVING, LEFT = "up", "leaving", "left"  # states of a rank


class Room:
    """One allocation, from its files alone."""

    def __init__(self, line: Line, number: int) -> None:
        self.number = number
        self.folder = line.path(ALLOCATIONS, b"%d" % number)

    def path(self, name: str) -> bytes:
        """Return the path of a file of it."""
        return self.folder + b"/" + name.encode("ascii")

    def claim(self) -> bool:
        """Make its folder; False: another did, or does, ask for this one."""
        try:
            os.mkdir(self.folder)
        except FileExistsError:
            return False
        return True

    def json(self, name: str) -> "dict[str, Any] | None":
        """Return what a file of it says; None: there is none, or none that can be read."""
        try:
            text = pilot_line.read(self.path(name))
            found = None if text is None else json.loads(text.decode("utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def text(self, name: str) -> str:
        """Return a file's one line, "" where there is none."""
        try:
            return (pilot_line.read(self.path(name)) or b"").decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def put(self, name: str, text: str) -> None:
        """Write a file, whole; raises OSError."""
        pilot_line.put(self.path(name), text.encode("utf-8", "surrogateescape"))

    def has(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return os.path.exists(self.path(name))

    def end(self, **said: "Any") -> bool:
        """Note how it ended, unless that is known; raises OSError."""
        said["time"] = time.time()
        return pilot_line.put_first(self.path("ended"), json.dumps(said).encode("utf-8"))

    def ended(self) -> "dict[str, Any] | None":
        """Return how it ended, None as long as nobody has told; of a word that cannot be understood, just that."""
        try:
            text = pilot_line.read(self.path("ended"))
        except OSError:
            return None
        if text is None:
            return None
        return self.json("ended") or {"phase": "unknown", "state": "the word on its end cannot be read"}

    def ranks(self) -> "dict[int, dict[str, Any]]":
        """Return what each rank says of itself."""
        found = {}
        try:
            names = os.listdir(self.folder)
        except OSError:
            return {}
        for name in names:
            word, _, number = name.partition(b".")
            if word == b"rank" and number.isdigit() and len(number) <= pilot_line.DIGITS:
                values = self.json(name.decode("ascii"))
                # a job can write here as well
                if values is not None and isinstance(values.get("beat"), int) and "\0" not in str(values.get("table")):
                    found[int(number)] = values
        return found
