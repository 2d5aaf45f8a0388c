"""What containers print: read from the engine while they run, brought to the run folder once they are over."""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from jobmill.systems.container_engine import DEADLINE, ContainerEngine
from jobmill.systems.container_folder import ContainerFolder
from jobmill.systems.system import Token

REFUSALS = 3  # after so many the engine will not give the output: the end must not wait for it
AT_ONCE = 4  # containers whose output is brought at the same time
STREAMS = ("stdout", "stderr")
STEP = 1 << 16  # bytes
WORDS = 500  # characters of a refusal


def read(engine: ContainerEngine, container: str, stream: str, offset: int, limit: int) -> bytes:
    """Return a part of what a container has printed so far; b"" when the engine does not say within its deadline.

    Engines know no offsets: what comes before is read, too.
    """
    pipes = {name: subprocess.PIPE if name == stream else subprocess.DEVNULL for name in STREAMS}
    try:
        child = subprocess.Popen(
            [engine.program, "logs", container],
            env=engine.env,
            stdin=subprocess.DEVNULL,
            **pipes,  # type: ignore[call-overload]
        )
    except OSError:
        return b""
    watchdog = threading.Timer(DEADLINE, child.kill)
    watchdog.start()
    source: IO[bytes] = child.stdout if stream == "stdout" else child.stderr
    taken = bytearray()
    try:
        while offset > 0 and (part := source.read(min(offset, STEP))):
            offset -= len(part)
        while not offset and len(taken) < limit and (part := source.read(min(limit - len(taken), STEP))):
            taken += part
    finally:
        watchdog.cancel()
        child.kill()
        source.close()
        child.wait()
    return bytes(taken)


class Collector:
    """Brings the output of containers that are over into their run folders, a few at once."""

    def __init__(self, engine: ContainerEngine) -> None:
        self._engine = engine
        self._under_way: dict[Token, tuple[subprocess.Popen[bytes], ContainerFolder]] = {}
        self._refusals: dict[Token, int] = {}
        self._secret = secrets.token_hex(8)

    def bring(self, wanted: Mapping[Token, tuple[str, ContainerFolder]], until: float) -> dict[Token, str]:
        """Bring stdout and stderr of (container, run folder) until a monotonic time.

        Returns those that are there whole, with the engine's words where it will not give them, else "". What takes
        longer goes on, and is asked for again.
        """
        whole: dict[Token, str] = {}
        waiting = [token for token in wanted if token not in self._under_way]
        while True:
            for token in [t for t, (child, _) in self._under_way.items() if child.poll() is not None]:
                child, folder = self._under_way.pop(token)
                words = self._keep(token, child.returncode, folder)
                if words is not None:
                    whole[token] = words
            while waiting and len(self._under_way) < AT_ONCE:
                token = waiting.pop()
                container, folder = wanted[token]
                with suppress(OSError):  # a full disk: again at the next call
                    self._under_way[token] = self._begin(container, folder.path), folder
            if not (self._under_way.keys() & wanted.keys() or waiting) or time.monotonic() > until:
                self._refusals = {token: n for token, n in self._refusals.items() if token in wanted}
                return whole
            time.sleep(0.005)

    def close(self) -> None:
        """Stop; what is not whole is brought anew by whoever asks."""
        for child, folder in self._under_way.values():
            child.kill()
            child.wait()
            for name in STREAMS:
                with suppress(OSError):
                    self._own(folder.path, name).unlink()
        self._under_way = {}

    def _own(self, folder: Path, name: str) -> Path:
        """Return where a stream is written before it is whole: no other's, and no name that a job could guess."""
        return folder / f".{name}.{os.getpid()}.{self._secret}"

    def _begin(self, container: str, folder: Path) -> subprocess.Popen[bytes]:
        with ExitStack() as files:
            out, err = (
                files.enter_context(os.fdopen(os.open(self._own(folder, name), _NEW, 0o644), "wb")) for name in STREAMS
            )
            return subprocess.Popen(
                [self._engine.program, "logs", container],
                env=self._engine.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def _keep(self, token: Token, code: int, folder: ContainerFolder) -> str | None:
        """Give what was brought its name, unless the stream went elsewhere (`stdout:` of the job); None: not yet."""
        words = ""
        try:
            if code:
                words = self._own(folder.path, "stderr").read_text(errors="replace")[:WORDS].strip() or f"exit {code}"
                self._refusals[token] = self._refusals.get(token, 0) + 1
            elsewhere = folder.links()
            for name in STREAMS:
                own, place = self._own(folder.path, name), folder.path / name
                if code or name in elsewhere:
                    own.unlink()
                    continue
                if place.is_dir() and not place.is_symlink():  # the job's; nothing else is in the way of a rename
                    place.rename(own.with_name(f"{own.name}.moved"))
                own.replace(place)
        except OSError:
            return None
        if 0 < self._refusals.get(token, 0) < REFUSALS and code:
            return None
        self._refusals.pop(token, None)
        return words


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
