"""Pushed ends of a pilot: a thread looks at the folder of ended launches, and a pipe says that there are some.

Files are all that the nodes and we share, so it is a look, several times a second while anything is out. The same
thread sees to the allocations, whose scheduler may be slow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from jobmill.errors import SystemUnavailable
from jobmill.systems import far_words, run_folder
from jobmill.systems.pilot_line import DONE, Line
from jobmill.systems.system import End, ExitInfo, Start, Token

logger = logging.getLogger("jobmill")

LOOK, RARELY = 0.1, 1.0  # seconds between two looks: while something is out, and without
TURN = 1.0  # seconds between two looks at the allocations
OTHERS = 5.0  # seconds between looks at launches whose ends may have come another way
SOME = 200  # of them at a time
EARLY = 30.0  # seconds for which the file is looked for of an end that was told by its record alone


class PilotNotices:
    """The launches of one process. A notice that is lost with it is no loss: polls find every end, later."""

    def __init__(self, line: Line, turn: Callable[[], None]) -> None:
        """``turn``: what is to be done about the allocations; may take its time."""
        self._line = line
        self._turn = turn
        self._out: dict[Token, None] = {}  # submitted by us, without an end, the one longest not looked at first
        self._early: dict[Token, float] = {}  # told by their records alone: their files may be on their way; since when
        self._found: deque[Start | End] = deque()
        self._reader, self._writer = os.pipe()
        for fd in (self._reader, self._writer):
            os.set_blocking(fd, False)
        self._over = threading.Event()
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f"pilot-{target.__name__.strip('_')}")
            for target in (self._look_for_ends, self._see_to_allocations)
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something."""
        return self._reader

    def expect(self, tokens: Sequence[Token]) -> None:
        """Tell the ends of these."""
        with self._lock:
            self._out.update(dict.fromkeys(tokens))
        self._wake.set()

    def forget(self, tokens: Sequence[Token]) -> None:
        """Expect no end of these any more."""
        with self._lock:
            for token in tokens:
                self._out.pop(token, None)

    def receive(self) -> Sequence[Start | End]:
        """Return what came since the last call, without blocking."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 1 << 16)
        found: list[Start | End] = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def close(self) -> None:
        """Wait for the threads, each of which may be in the midst of a question."""
        self._over.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(10.0)
        if not any(thread.is_alive() for thread in self._threads):
            os.close(self._writer)
            os.close(self._reader)

    def _look_for_ends(self) -> None:
        others = 0.0
        while not self._over.is_set():
            with self._lock:
                out = bool(self._out or self._early)
            if out:
                try:
                    for it in self._line.entries(DONE):
                        if it.token in self._out or it.token in self._early:
                            self._tell(it.token)
                            if it.token not in self._out:  # nobody else forgets it: each look would read a day's ends
                                self._early.pop(it.token, None)
                                self._line.drop(it.name, DONE)
                    if time.monotonic() >= others:
                        others = time.monotonic() + OTHERS
                        self._look_at_others()
                except OSError as error:
                    logger.debug("the pilot's folders cannot be read: %s", error)
                except Exception:  # the next look finds what this one did not
                    logger.exception("the pilot's ended launches cannot be told")
                self._over.wait(LOOK)
            else:
                self._wake.wait(RARELY)
                self._wake.clear()

    def _look_at_others(self) -> None:
        """Find ends that left no file among the ended ones: sealed, told by a survey, or forgotten since."""
        with self._lock:
            some = list(self._out)[:SOME]
            for token in some:  # to the end of the line
                self._out.pop(token, None)
                self._out[token] = None
        for token in some:
            self._tell(token)
            if token not in self._out:
                self._early[token] = time.monotonic()
        for token in [it for it, since in self._early.items() if time.monotonic() - since > EARLY]:
            del self._early[token]

    def _tell(self, token: Token) -> None:
        found = run_folder.read(run_folder.folder_of(self._line.spool, token))
        if found is None or found.token != token or found.end is None:
            return
        with self._lock:
            if token not in self._out:
                return
            del self._out[token]
        try:
            info = ExitInfo.from_json(far_words.record(found.end))  # a job can write to its folder
        except (ValueError, KeyError, TypeError):
            return
        if found.pid is not None:
            self._found.append(Start(token=token, native_id=str(found.pid), host=found.host or ""))
        self._found.append(End(token=token, exit=info.to_json()))
        with contextlib.suppress(BlockingIOError):  # full: it is readable
            os.write(self._writer, b"x")

    def _see_to_allocations(self) -> None:
        while not self._over.is_set():
            try:
                self._turn()
            except (OSError, SystemUnavailable) as error:
                logger.warning("a pilot cannot see to its allocations: %s", error)
            except Exception:  # without this thread nobody would ask for an allocation, until the worker is restarted
                logger.exception("a pilot cannot see to its allocations")
            self._over.wait(TURN)
