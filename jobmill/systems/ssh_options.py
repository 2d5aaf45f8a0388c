"""Reads what a configuration and ``~/.ssh/config`` say of an SSH host, value by value; nonsense is a ConfigError."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import paramiko

from jobmill.errors import ConfigError

INCLUDES_MAX = 16  # as ssh has it


def text(options: Mapping[str, Any], key: str, where: str) -> str | None:
    """Return a text without line ends, None where it is not given."""
    value = options.get(key)
    if value is not None and (not isinstance(value, str) or not value.strip() or any(c in value for c in "\n\r\0")):
        raise ConfigError(f"{where}.{key}: {value!r} is not a text of one line")
    return value


def number(options: Mapping[str, Any], key: str, where: str, *, least: int, most: int) -> int:
    """Return a whole number; digits in a text are one."""
    value = options[key]
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value[:20])
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{where}.{key}: {options[key]!r} is not a whole number from {least} to {most}")
    return value


def duration(options: Mapping[str, Any], key: str, where: str) -> float:
    """Return seconds, from 0.1 to a day."""
    value = options[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{where}.{key}: {value!r} is not a number of seconds")
    if not 0.1 <= value <= 86400:
        raise ConfigError(f"{where}.{key}: {value!r} is not within 0.1 and 86400 seconds")
    return float(value)


def paths(options: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return absolute paths from one text or a list of them; ``~`` is the user's home."""
    value = options[key]
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(isinstance(it, str) and it for it in words):
        raise ConfigError(f"{where}.{key}: {value!r} is not a path, nor a list of paths")
    found = []
    for word in words:
        try:
            path = Path(word).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"{where}.{key}: {word!r}: {error}") from error
        if not path.is_absolute():
            raise ConfigError(f"{where}.{key}: {word!r} is relative; write an absolute path, or one from ~/")
        found.append(str(path))
    return tuple(found)


class Lookup:
    """``~/.ssh/config`` and the system's, or one file that the option ``ssh_config`` names, or none (``none``)."""

    def __init__(self, files: tuple[Path, ...], where: str) -> None:
        """Read them; a file that is not there says nothing."""
        self.name = str(files[0]) if files else "ssh_config"
        self._config = paramiko.SSHConfig()
        for file in files:
            try:
                self._config.parse(list(_lines(file, 0)))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, paramiko.ssh_exception.ConfigParseError) as error:
                raise ConfigError(f"{where}: cannot read {file}: {error}") from error

    @classmethod
    def of(cls, option: Any, where: str) -> Lookup:
        """Take the option ``ssh_config``: a path, ``none``, or None for the usual files."""
        if option is None:
            return cls((Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")), where)
        if option == "none" or option is False:
            return cls((), where)
        (path,) = paths({"ssh_config": [option]}, "ssh_config", where)
        if not Path(path).is_file():
            raise ConfigError(f"{where}.ssh_config: there is no file {path}")
        return cls((Path(path),), where)

    def host(self, alias: str, where: str) -> Mapping[str, Any]:
        """Return what applies to a host, keys in lower case."""
        try:
            said: Mapping[str, Any] = self._config.lookup(alias)
        except (paramiko.SSHException, OSError, ValueError, KeyError, ImportError) as error:
            raise ConfigError(f"{where}: {self.name}, Host {alias}: {error}") from error
        return said


def _lines(file: Path, depth: int) -> Iterator[str]:
    """Yield a file's lines with the text of its ``Include``\\ s in their place, which the library does not know."""
    block = "Host *\n"
    for line in file.read_text(errors="surrogateescape").splitlines(keepends=True):
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include":
            yield line
            continue
        if depth >= INCLUDES_MAX:
            raise ValueError(f"more than {INCLUDES_MAX} files include one another")
        for pattern in rest.split():
            path = Path(pattern.strip('"')).expanduser()
            base = Path("/etc/ssh") if file.is_relative_to("/etc/ssh") else Path("~/.ssh").expanduser()
            path = path if path.is_absolute() else base / path
            for found in sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
                yield from _lines(found, depth + 1)
        yield block if block.endswith("\n") else block + "\n"
