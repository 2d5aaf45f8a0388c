"""What launches tell by a file of their own when they start and when they end: one look at one folder finds them all.

Standard library only, Python 3.6 and later: it is written on the nodes. The folder is ``<spool>/notices/<system>/``. A
notice is advice, which says where to look; it may come late (file systems keep lists of names for some seconds), or
never. Its name is the token, with what is told behind the last dot; it is empty.
"""

import itertools
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = b"notices"
STARTED, ENDED, DONE = "started", "ended", "done"  # done: with 0, and nothing on its node speaks against it
ENDS = (DONE, ENDED)
WORDS = (*ENDS, STARTED)
MOST = 500000  # names that are looked at: jobs can write here, and polls find what notices do not tell
LEFT_OVER = 7 * 86400.0  # seconds after which a notice that nobody took is removed


class Notices:
    """The notices of one system."""

    def __init__(self, spool: bytes, system: str) -> None:
        self.folder = os.path.join(spool, FOLDER, os.fsencode(system))

    def make(self) -> None:
        """Make the folder, for who writes to it. Raises OSError."""
        os.makedirs(self.folder, exist_ok=True)

    def put(self, token: str, what: str) -> None:
        """Tell it, if that can be done; an end takes the place of its start."""
        try:
            if what != STARTED:
                try:
                    os.rename(self._name(token, STARTED), self._name(token, what))
                    return
                except OSError:
                    pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # jobs can put a pipe there
            os.close(os.open(self._name(token, what), flags, 0o644))
        except OSError:
            pass

    def look(self) -> "dict[str, str]":
        """Return the word of each token; nothing where there is no folder. Of a flood only a part is looked at."""
        found: "dict[str, str]" = {}
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in itertools.islice(entries, MOST)]
        except OSError:
            return found
        for name in names:
            token, _, what = os.fsdecode(name).rpartition(".")
            if what in WORDS and found.get(token, STARTED) == STARTED:
                found[token] = what
        return found

    def drop(self, tokens: "Iterable[str]") -> None:
        """Remove what was told of launches."""
        for token in tokens:
            for what in WORDS:
                try:
                    os.unlink(self._name(token, what))
                except OSError:
                    pass

    def tidy(self) -> None:
        """Remove what nobody took for long: the record knows nothing of it any more."""
        try:
            entries = list(os.scandir(self.folder))
        except OSError:
            return
        for entry in entries:
            try:
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_OVER:
                    os.unlink(entry.path)
            except OSError:
                pass  # gone, or no notice: one keeps no other

    def _name(self, token: str, what: str) -> bytes:
        if not token or "/" in token or "\0" in token:
            raise ValueError("%r is not a token" % token)
        return os.path.join(self.folder, os.fsencode("%s.%s" % (token, what)))
