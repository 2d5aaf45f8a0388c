"""Watch the jobs of one rank: their records, and the moves of their files in the pilot's line.

Standard library only, Python 3.6 and later. The rank's runner and its guard, which inherits from it, have one each.
"""

import os
import time

from jobmill.systems import child_wait, pilot_line, run_folder, watch
from jobmill.systems.pilot_line import DONE, LINE, WORK, Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

AGAIN = 1.0  # seconds until a record that could not be written is tried again
TAKEN_AWAY = ('"term_sig":15', '"term_sig":9,')  # how jobs end when their allocation is ended


class PilotWatch(watch.Watch):
    """As a runner's, but a record that finds no room is written later, and what ended moves on."""

    def __init__(
        self, grace: float, emit: "Callable[[bytes], None]", spare: "tuple[int, ...]", line: Line, rank: bytes
    ) -> None:
        watch.Watch.__init__(self, grace, emit, spare, line.spool)
        self.line = line
        self.work = WORK + b"/" + rank  # where the rank's launches lie
        self.names: "dict[str, bytes]" = {}  # token -> name in line
        self.warned = False  # a TERM came: whoever ends the allocation may send one to the jobs as well
        self.unwritten: "dict[str, tuple[bytes, bytes]]" = {}  # token -> (run folder, line that has to be added)
        self.again = 0.0  # time.monotonic() of the next attempt
        self.killed: "set[str]" = set()  # tokens of what somebody wants killed: over when all of it is gone

    def _finish(self, it: watch.Running, code: int, status: int, usage: child_wait.Usage) -> bool:
        """Record the end of a leader; what was to be killed has none before the rest of it is gone, too."""
        whole, self.whole = self.whole, self.whole or it.token in self.killed
        self.killed.discard(it.token)
        try:
            return watch.Watch._finish(self, it, code, status, usage)
        finally:
            self.whole = whole

    def write_end(self, it: watch.Running, record: str, word: str = "exit") -> None:
        """Append the end to the run file, or do it later; then the launch's file moves on.

        What is ended by a signal after a warning gets no end yet: why, the end of the allocation will tell.
        """
        if self.warned and word == "exit" and any(sign in record for sign in TAKEN_AWAY) and '"reason"' not in record:
            word = "left"
        line = run_folder.end_line(word, record)
        try:
            if it.fd is not None:
                run_folder.write(it.fd, line)
            else:
                self._append(it, line)
        except OSError:
            self.unwritten[it.token] = (it.folder, b"\n" + line)  # a part of it may stand there
        if it.fd is not None:
            os.close(it.fd)
            it.fd = None
        if word != "left" and it.token not in self.unwritten:
            self.over(it.token)
        self.emit(watch.end_event(it.token, record))

    def over(self, token: str) -> None:
        """Move what has its end to the ended ones; where that fails, whoever surveys does it."""
        try:
            self.line.move(self.name(token), self.work, DONE)
        except OSError:
            pass
        self.names.pop(token, None)

    def back(self, token: str) -> None:
        """Put what was not started back into line; where that fails, it is done once the rank is gone."""
        try:
            self.line.move(self.name(token), self.work, LINE)
        except OSError:
            pass
        self.names.pop(token, None)

    def drop(self, token: str) -> None:
        """Take a launch that is another's, or sealed, out of our hands."""
        try:
            self.line.drop(self.name(token), self.work)
        except OSError:
            pass
        self.names.pop(token, None)

    def name(self, token: str) -> bytes:
        """Return the name of a launch in line."""
        if token not in self.names:
            try:
                self.names.update((it.token, it.name) for it in self.line.entries(self.work))
            except OSError:
                pass
        return self.names.get(token) or pilot_line.entry(0, 0, token).name

    def write_again(self) -> None:
        """Try to write the records that could not be written."""
        now = time.monotonic()
        if not self.unwritten or now < self.again:
            return
        self.again = now + AGAIN
        for token, (folder, line) in list(self.unwritten.items()):
            try:
                found = run_folder.read(folder)
                if found is not None and found.token == token and found.end is None:
                    run_folder.append(folder, line)
            except OSError:
                return
            del self.unwritten[token]
            self.over(token)
