"""Our side of a DRMAA session in a child process: asks, waits with a deadline, and starts the next one when it dies."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobmill.errors import JobmillError, SystemUnavailable
from jobmill.systems import drmaa_session
from jobmill.systems.command_line import Unanswered

DEADLINE = 6.0  # seconds for one answer
START = 10.0  # seconds for a session to begin
REST = (0.0, 1.0, 5.0, 30.0)  # seconds before the next start after the first, second … death in a row
LEAVE = 2.0  # seconds for a child to leave its session
SAID = 1000  # characters of a dead library's own words that are told


class DrmaaError(JobmillError):
    """The library answered, and its answer is an error: ``kind`` is its name, as ``DeniedByDrmException``."""

    def __init__(self, text: str) -> None:
        self.kind, _, words = text.partition(": ")
        super().__init__(words or text)


class DrmaaChild:
    """One session. Not for several threads."""

    def __init__(self, folder: Path, env: Mapping[str, str], contact: str = "", *, deadline: float = DEADLINE) -> None:
        """``folder``: for what outlives a session; ``env``: the child's whole environment, with the library's path."""
        self.folder = folder
        self.env = dict(env)
        self.contact = contact
        self.deadline = deadline
        self.queries = 0  # how often it was asked for states
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # pid of the process that started it: a fork has none
        self._answers = -1
        self._rest = b""
        self._deaths = 0
        self._not_before = 0.0  # time.monotonic()
        self._why = ""
        self._words: Any = None  # what the library prints

    @property
    def live(self) -> bool:
        """True while a child of this process has a session."""
        return self.process is not None and self._owner == os.getpid() and self.process.poll() is None

    def call(self, verb: str, **asked: Any) -> Any:
        """Ask for one thing.

        Raises DrmaaError for an error that the library tells, SystemUnavailable where nothing can have happened,
        Unanswered where that is not certain.
        """
        self.queries += verb == "states"
        self._start()
        assert self.process is not None and self.process.stdin is not None
        line = json.dumps({"verb": verb, **asked}).encode() + b"\n"
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except OSError:
            raise SystemUnavailable(self._dead("the DRMAA session died")) from None  # it does nothing by half a line
        told = self._told(self.deadline)
        if told is None:
            raise Unanswered(self._dead(f"DRMAA gave no answer to {verb} within {self.deadline:g} s"))
        if "error" in told:
            error = DrmaaError(told["error"])
            if error.kind in ("DrmCommunicationException", "NoActiveSessionException"):
                self._dead(str(error), crashed=False)  # a new session finds the way again
            raise error
        self._deaths = 0
        return told.get("ok")

    def _start(self) -> None:
        if self.live:
            return
        if self.process is not None and self._owner == os.getpid():
            self._dead("the DRMAA session died")
        left = self._not_before - time.monotonic()
        if left > 0:
            raise SystemUnavailable(f"{self._why}; it is started again in {left:.0f} s")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemUnavailable(f"cannot use the spool {self.folder}: {error.strerror}") from error
        reader, writer = os.pipe()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the child)
        try:
            self.process = subprocess.Popen(
                # -P: beside the program lies our own `drmaa`, which is not the library's
                [sys.executable, "-P", drmaa_session.__file__, str(writer), str(self.folder), self.contact],
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=self._words,
                stderr=self._words,
                pass_fds=(writer,),
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            os.close(reader)
            raise SystemUnavailable(f"{sys.executable} cannot be started: {error.strerror}") from error
        finally:
            os.close(writer)
        self._owner, self._answers, self._rest = os.getpid(), reader, b""
        told = self._told(START)
        if told is None:
            raise SystemUnavailable(self._dead(f"no DRMAA session began within {START:g} s"))
        if "error" in told:
            raise SystemUnavailable(self._dead(f"no DRMAA session: {told['error']}"))

    def _told(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer; None when there is none in time, or the child is gone."""
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            if not select.select([self._answers], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            part = os.read(self._answers, 65536)
            if not part:
                return None
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def _dead(self, why: str, *, crashed: bool = True) -> str:
        """End what is left of the child; return why it is gone, with the library's last words."""
        said = b""
        if self.process is not None and self._owner == os.getpid():
            self.process.kill()
            self.process.wait()
            code = self.process.returncode
            why += f" (signal {-code})" if crashed and code < 0 and code != -9 else ""
            with suppress(OSError, ValueError):
                self._words.seek(0)
                said = self._words.read()[-SAID:]
        self.close()
        text = said.decode("utf-8", "replace").strip()
        self._why = f"{why}: {text}" if text else why
        self._not_before = time.monotonic() + REST[min(self._deaths, len(REST) - 1)]
        self._deaths += 1
        return self._why

    def close(self) -> None:
        """Let the child leave its session by itself."""
        if self.process is None:
            return
        if self._owner == os.getpid():
            with suppress(OSError):
                assert self.process.stdin is not None
                self.process.stdin.close()
            os.close(self._answers)
            self._words.close()
            try:
                self.process.wait(LEAVE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def __del__(self) -> None:
        """Leave no child behind."""
        with suppress(Exception):
            self.close()
