"""A program in a peer's own environment that is asked by one line of JSON, and answers by one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.peers.contract import NotAcknowledged

INSIDE = Path(__file__).with_name("inside")  # what runs in the environments of peers, and imports nothing of ours


class Helper:
    """One such program: started at the first question, and again after its death."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str], log: Path) -> None:
        self._command, self._env, self._log = command, env, log
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    @property
    def pid(self) -> int | None:
        """Its process id; None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def ask(self, question: Mapping[str, Any], seconds: float = 60.0) -> Any:
        """Return the answer; raise NotAcknowledged with the reason when there is none within so many seconds.

        An answer that comes too late could be taken for the next one: the program is ended then.
        """
        if self.pid is None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line(seconds))
        except (OSError, ValueError) as error:
            self.close()
            raise NotAcknowledged(f"no answer: {error}") from error
        if "error" in answer:
            raise NotAcknowledged(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        """End it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what it did not read any more
                    stream.close()
        self._process = None

    def _start(self) -> None:
        self.close()
        self._rest = b""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in self._command],
                env=os.environ | dict(self._env),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _line(self, seconds: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], seconds)
            more = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not more:
                raise OSError("it ended" if ready else f"none within {seconds:g} s")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line
