"""What a job mounts into its container, and what a system's configuration lets jobs mount."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)
_TAKEN = ("/jobmill", "/proc", "/sys", "/dev")  # the run folder's place, and the kernel's


@dataclass(frozen=True)
class Volume:
    """One mount: a host path or the name of a volume, where it appears in the container, and whether it is written."""

    source: str
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Volume:
        """Read ``source[:target][:ro]``; without a target it appears at its own path. Raises ValueError."""
        words = text.split(":")
        read_only = len(words) > 1 and words[-1] in ("ro", "rw") and words.pop() == "ro"
        if not 1 <= len(words) <= 2 or not all(words):
            raise ValueError(f"{text!r} is no volume; write source, source:target or source:target:ro")
        source, target = words[0], words[-1]
        if source.startswith("/"):
            source = os.path.normpath(source).replace("//", "/")
        elif _NAME.fullmatch(source) is None:
            raise ValueError(f"{text!r} is no volume: write an absolute path, or the name of a volume and a target")
        elif len(words) == 1:
            raise ValueError(f"{text!r} is the name of a volume; say where it appears: {source}:/path")
        if not target.startswith("/") or ".." in target.split("/") or not target.isprintable():
            raise ValueError(f"{text!r}: {target!r} is no place in a container; write an absolute path without '..'")
        target = os.path.normpath(target).replace("//", "/")
        if target == "/" or any(below(target, taken) for taken in _TAKEN):
            raise ValueError(f"{text!r}: {target} is taken in every container; let it appear elsewhere")
        return cls(source, target, read_only)

    @property
    def named(self) -> bool:
        """True for a volume that the engine keeps, False for a path of the host."""
        return not self.source.startswith("/")

    def text(self) -> str:
        """Return it as `parse` reads it."""
        return f"{self.source}:{self.target}" + (":ro" if self.read_only else "")


@dataclass(frozen=True)
class VolumePolicy:
    """Host paths (and what lies below them) and named volumes that jobs may mount, each perhaps read-only."""

    allowed: tuple[tuple[str, bool], ...] = ()  # (source, read_only)

    @classmethod
    def parse(cls, entries: Sequence[str]) -> VolumePolicy:
        """Read entries such as ``/data``, ``/ref:ro``, ``cache``; raise ValueError for what is none."""
        allowed = []
        for entry in entries:
            source, colon, mode = entry.partition(":")
            if (colon and mode not in ("ro", "rw")) or not (source.startswith("/") or _NAME.fullmatch(source)):
                raise ValueError(f"{entry!r} must be an absolute path or a volume's name, with :ro where only read")
            allowed.append((os.path.realpath(source) if source.startswith("/") else source, mode == "ro"))
        return cls(tuple(allowed))

    def admit(self, volume: Volume) -> Volume:
        """Return the volume as it is to be mounted, links of a host path resolved; raise ValueError if it is refused.

        A link must not lead out of what is allowed: what is compared is what is mounted.
        """
        source = volume.source if volume.named else os.path.realpath(volume.source)
        fits = [ro for path, ro in self.allowed if source == path or (not volume.named and below(source, path))]
        if not fits:
            known = ", ".join(path for path, _ in self.allowed) or "none"
            raise ValueError(f"volume {volume.source} is not among those that jobs may mount here ({known})")
        if all(fits) and not volume.read_only:
            raise ValueError(f"volume {volume.source} may only be read here; write {volume.text()}:ro")
        return Volume(source, volume.target, volume.read_only)

    def cover(self, folder: str) -> Volume | None:
        """Return the mount that makes a folder of the host appear at its own path, or None where that is refused."""
        for read_only in (False, True):
            try:
                volume = self.admit(Volume.parse(folder + (":ro" if read_only else "")))
            except ValueError:
                continue
            return Volume(volume.source, os.path.normpath(folder), read_only)
        return None


def below(path: str, folder: str) -> bool:
    """Tell whether a normalized path is a folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
