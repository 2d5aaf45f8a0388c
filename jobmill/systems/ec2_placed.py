"""On which instance each launch was put: the only way to say, of one that is gone, what ended the jobs there.

A file of lines, appended by whoever leads before a launch is sent, and by whoever sees one:

    led <origin>            from here on every launch whose handle begins so is in the file
    <token> <instance>

It may be lost: then a job whose instance is gone is `lost` instead of `preempted` or `node_fail`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

MOST = 4 << 20  # bytes, after which the older half is dropped


class Placed:
    """Read and written by several processes of this machine."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[str, str] = {}
        self._led: set[str] = set()
        self._offset = 0

    def led(self, origin: str) -> None:
        """Note that a process leads whose handles begin so; raises OSError."""
        if origin not in self._led:
            self._trim()
            self._append([f"led {origin}"], durable=True)

    def note(self, places: Sequence[tuple[str, str]], *, durable: bool = False) -> None:
        """Note (token, instance) of each that is new; raises OSError. ``durable``: it outlives a loss of power."""
        self._read()
        lines = [f"{token} {instance}" for token, instance in places if self._found.get(token) != instance]
        self._append(lines, durable=durable)
        self._found.update(places)

    def of(self, token: str) -> str | None:
        """Return the instance of a launch, None where nobody noted it."""
        if token not in self._found:
            self._read()
        return self._found.get(token)

    def complete(self, origin: str) -> bool:
        """Tell whether every launch whose handle begins so is noted here."""
        self._read()
        return origin in self._led

    def _append(self, lines: Sequence[str], *, durable: bool) -> None:
        if not lines:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                torn = file.read(1) != b"\n"  # by a full disk: what follows is a line of its own
            else:
                torn = False
            file.write("".join(f"{line}\n" for line in ["", *lines][not torn :]).encode())
            file.flush()
            if durable:
                os.fsync(file.fileno())

    def _trim(self) -> None:
        """Drop the older half of a long file, and with it what it was complete for."""
        try:
            if self._file.stat().st_size <= MOST:
                return
        except OSError:
            return
        lines = self._file.read_text().splitlines(keepends=True)
        new = self._file.with_name(self._file.name + ".new")
        new.write_text("".join(line for line in lines[len(lines) // 2 :] if not line.startswith("led ")))
        new.replace(self._file)
        self._offset = 0

    def _read(self) -> None:
        try:
            with self._file.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            word, _, rest = line.partition(" ")
            if word == "led":
                self._led.add(rest)
            else:
                self._found[word] = rest
