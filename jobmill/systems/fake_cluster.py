"""The cluster behind the `fake` system: a journal in a folder, shared by all processes of this host.

The journal has one line an act: ``["submit", time, number, token, {…}]``, ``["release", time, number, token]``,
``["kill", time, number, token, signal]``, ``["slots", time, n]``. Acts are appended under a lock, a batch in one write;
each process replays what is new for it (`FakeQueue`). So the journal is also evidence, apart from the record, of what
was accepted, released and started: `FakeCluster(folder).launches()`.

Times are the host's monotonic clock, which begins anew with each boot. So every boot has a journal of its own, and a
handle names its boot: what the cluster had before a reboot is gone, as on a cluster that lost its power.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems.fake_faults import FaultFile, Faults
from jobmill.systems.fake_queue import ENDED, HELD, FakeLaunch, FakeQueue
from jobmill.systems.run_folder import BOOT
from jobmill.systems.system import Handle, Token

PATIENCE = 5.0  # seconds for the lock: a process that was stopped while it held it must not stop all others
Job = dict[str, Any]  # what a submission does: fields of FakeLaunch that are not the usual ones


class FakeCluster:
    """One cluster. Knows no faults but those of its disk; `faults` holds those that the `fake` system shows."""

    def __init__(
        self,
        folder: Path | str,
        *,
        keep: float = math.inf,  # seconds for which what has ended stays known; the journal keeps all
        faults: dict[str, Any] | None = None,  # as long as the file of the folder does not say otherwise
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(folder)
        self.boot = BOOT[:8] or "boot"
        self.journal = self.folder / f"journal.{self.boot}"
        self._faults = FaultFile(self.folder / "faults.json", faults or {})
        self._keep = keep
        self._clock = clock
        self._queue = FakeQueue(keep=keep)
        self._fd = -1
        self._offset = 0

    def faults(self, **changes: Any) -> Faults:
        """Change faults, for all processes and at once; without arguments tell those in force."""
        return self._faults.change(**changes) if changes else self._faults.read()

    @property
    def fault_file(self) -> FaultFile:
        """The faults, for the system that shows them."""
        return self._faults

    # Acts: each returns when the journal has them.

    def submit(self, jobs: Sequence[tuple[Token, Job]], *, twice: Collection[Token] = ()) -> list[Handle | None]:
        """Accept submissions, held; a handle each, None where the disk took no more.

        A token that the cluster has is not accepted again: the answer is its handle. Those in ``twice`` get a second
        submission, which nobody is told of. Raises SystemUnavailable when certainly nothing was accepted.
        """
        with self._locked(fcntl.LOCK_EX) as now:
            numbers: list[int] = []
            lines: list[bytes] = []
            first = self._queue.last + 1
            for token, job in jobs:
                known = self._queue.of_token(token)
                numbers.append(known[0].number if known else first + len(lines))
                if not known:
                    for _ in range(2 if token in twice else 1):
                        lines.append(_line("submit", now, first + len(lines), token, job))
            whole = self._append(lines)
        return [self.handle(n) if n < first + whole else None for n in numbers]

    def release(self, handles: Iterable[Handle]) -> None:
        """Let held submissions line up; nothing happens to what is not held."""
        with self._locked(fcntl.LOCK_EX) as now:
            held = [it for it in self._found(handles) if it is not None and it.state == HELD]
            self._append([_line("release", now, it.number, it.token) for it in held])

    def kill(self, handles: Iterable[Handle], signal: int) -> None:
        """End what has not ended; nothing happens to what has."""
        with self._locked(fcntl.LOCK_EX) as now:
            live = [it for it in self._found(handles) if it is not None and it.state != ENDED]
            self._append([_line("kill", now, it.number, it.token, signal) for it in live])

    def set_slots(self, slots: int | None) -> None:
        """Set how many slots the cluster has from now on; None: no bound."""
        with self._locked(fcntl.LOCK_EX) as now:
            if slots != self._queue.slots:
                self._append([_line("slots", now, slots)])

    # Looking.

    def look(self) -> FakeQueue:
        """Return the queue as it is now; not to be changed."""
        with self._locked(fcntl.LOCK_SH):
            return self._queue

    def find(self, handles: Sequence[Handle]) -> list[FakeLaunch | None]:
        """Return what these handles name, None for what the cluster does not know (any more)."""
        self.look()
        return list(self._found(handles))

    def launches(self) -> list[FakeLaunch]:
        """Return every launch that is known, in order of submission, with its times as they are now."""
        return list(self.look().launches.values())

    def handle(self, number: int) -> Handle:
        """Return the handle of a submission of this boot."""
        return f"{self.boot}.{number}"

    def close(self) -> None:
        """Close the journal; the next call opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _found(self, handles: Iterable[Handle]) -> Iterable[FakeLaunch | None]:
        launches = self._queue.launches
        for handle in handles:
            boot, _, number = handle.rpartition(".")
            known = boot == self.boot and number.isascii() and number.isdigit()
            yield launches.get(int(number)) if known else None

    @contextmanager
    def _locked(self, how: int) -> Iterator[float]:
        """Hold the journal's lock, with all of it replayed; give the time to act at.

        Who only looks needs the lock, too: an act that is timed and not yet written would come before what was seen.
        """
        deadline = time.monotonic() + PATIENCE
        try:
            fd = self._open()
            while not _try_lock(fd, how):
                if time.monotonic() > deadline:
                    raise SystemUnavailable(f"{self.journal} has been locked for {PATIENCE:g} s")
                time.sleep(0.0005)
        except OSError as error:
            raise SystemUnavailable(f"{self.journal}: {error.strerror}") from error
        try:
            self._replay(fd)
            self._queue.advance(round(self._clock(), 6))
            yield self._queue.now
        except OSError as error:
            raise SystemUnavailable(f"{self.journal}: {error.strerror}") from error
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)

    def _open(self) -> int:
        """Return the journal's descriptor; a journal that was removed begins anew, and so does the cluster."""
        if self._fd >= 0 and os.fstat(self._fd).st_nlink == 0:
            self.close()
        if self._fd < 0:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self.journal, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._queue = FakeQueue(keep=self._keep)
            self._offset = 0
        return self._fd

    def _replay(self, fd: int) -> None:
        """Apply what others, and we, have written since the last time: whole lines only."""
        while chunk := os.pread(fd, 1 << 22, self._offset):
            end = chunk.rfind(b"\n") + 1
            if not end:
                return  # torn: its writer died; whoever writes next ends it
            self._offset += end
            lines = chunk[: end - 1].split(b"\n")
            try:
                acts = json.loads(b"[" + b",".join(lines) + b"]")  # all at once: several times as fast as one by one
            except ValueError:
                acts = [act for line in lines if (act := _read(line)) is not None]
            for act in acts:
                with suppress(ValueError, KeyError, TypeError, IndexError):  # JSON, and no act: passed over
                    self._queue.apply(act)

    def _append(self, lines: Sequence[bytes]) -> int:
        """Append lines in one write; return how many are whole. Only under the lock."""
        if not lines:
            return 0
        torn = os.fstat(self._fd).st_size > self._offset  # all that is whole was replayed
        spoiler = b"!\n" if torn else b""  # a line that lacks no more than its end must not become one
        text = b"".join(lines)
        try:
            written = os.write(self._fd, spoiler + text)
        except OSError as error:
            raise SystemUnavailable(f"{self.journal}: cannot be written: {error.strerror}") from error
        return text[: max(0, written - len(spoiler))].count(b"\n")


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _line(*act: Any) -> bytes:
    return json.dumps(act, separators=(",", ":")).encode() + b"\n"


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
