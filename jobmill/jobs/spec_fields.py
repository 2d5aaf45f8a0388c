"""The types of a spec's fields: what each accepts, in the words that its user reads when it does not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from jobmill.jobs.document import MAX_DEPTH
from jobmill.jobs.identifier import ID_PATTERN
from jobmill.jobs.quantity import parse_duration, parse_memory

T = TypeVar("T")

# what the run itself sets; a job may well set the others (JOBMILL_REDIS_URL, to submit from a job)
RESERVED_ENV = frozenset(
    f"JOBMILL_{name}" for name in ["JOB_ID", "RUN", "ARRAY_INDEX", "CPUS", "WORKDIR", "ERROR_FILE", "RETURN_FILE"]
)
RUN_FOLDER_FILES = frozenset({"run", "stdout", "stderr", "steps", "outputs", "job.yaml", "script"})
OWN_FILES = RUN_FOLDER_FILES | {
    "error",
    "return.json",
    "outputs.json",
    "spawned",
    "staged",
    "switch",
}  # no input comes there

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_is_env_name = _ENV_NAME.fullmatch
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/@=,-]{0,254}", re.ASCII)
MAX_TIME = 64  # characters of a time
MAX_NAME, MAX_PATH = 255, 4095  # bytes, limits.h of Linux
MAX_PARTS = 100  # of a glob; whoever looks for it goes down as deep
_EARLIEST, _LATEST = 1_000_000_000, 32_503_680_000  # 2001 and 3000: 20261201 is a date, not a Unix time


class Part(BaseModel):
    """A frozen part of a spec that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )


class Check:
    """A field's type is what ``function`` returns.

    Unlike pydantic's PlainValidator it leaves writing to the value's own type: no Python runs in `canonical`.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.function)


def shown(value: object) -> str:
    """Return ``value`` as a message shows it: on one line, at most 40 characters."""
    try:
        text = json.dumps(value[:80] if isinstance(value, (str, list, tuple)) else value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = type(value).__name__
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text[:80])
    return text if len(text) <= 40 else text[:37] + "..."


def text_of(value: object, *, what: str = "must be text") -> str:
    """Return ``value`` when it is text without NUL; else raise ValueError with the way to quote it."""
    if type(value) is str:
        if "\0" in value:
            raise ValueError("holds a NUL character; take it out")
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half a surrogate pair, which is no UTF-8; mend it") from None
        return value
    if isinstance(value, bool):
        raise ValueError(f"{what}, but YAML reads this word as {shown(value)}; put it in quotes")
    if isinstance(value, (int, float)):
        raise ValueError(f'{what}, not the number {shown(value)}; put it in quotes: "{shown(value)}"')
    raise ValueError(f"{what}, not {_kind(value)}")


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, (list, tuple)) else "nothing" if value is None else type(value).__name__


def _filled(value: object) -> str:
    text = text_of(value)
    if not text.strip():
        raise ValueError("is empty; fill it in or leave the key out")
    return text


def _name(value: object) -> str:
    text = _filled(value)
    if len(text) > 200 or not text.isprintable():
        raise ValueError("must be at most 200 printable characters on one line")
    return text


def _module(value: object) -> str:
    text = text_of(value)
    if not _MODULE.fullmatch(text):
        raise ValueError(f"{shown(text)} is no module; write name or name/version, such as gcc/12.2.0")
    return text


def _path(value: object) -> str:
    text = _filled(value)
    if not text.isprintable():
        raise ValueError(f"{shown(text)} holds control characters; a path must be printable")
    if len(text) <= MAX_NAME and text.isascii():  # no part of it can be too long
        return text
    if len(text.encode()) > MAX_PATH or any(len(name.encode()) > MAX_NAME for name in text.split("/")):
        raise ValueError(f"{shown(text)} is too long: a file system takes {MAX_NAME} bytes a name, {MAX_PATH} in all")
    return text


def _command(value: object) -> str | tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        words = tuple(_each(value, lambda word: text_of(word, what="each word must be text")))
        if not words or not words[0]:
            raise ValueError("has no program; write [program, argument, …], or text for the shell")
        return words
    text = text_of(value, what="must be text (for the shell) or a list of words (no shell)")
    if not text.strip():
        raise ValueError("is empty; say what to run")
    return text


def _each(values: list[Any] | tuple[Any, ...], check: Callable[[Any], T]) -> list[T]:
    """Check every item; the message names the first bad one by its place."""
    result: list[T] = []
    try:
        for value in values:
            result.append(check(value))
    except ValueError as bad:
        raise ValueError(f"item {len(result) + 1}: {bad}") from None
    return result


def _list_of(check: Callable[[Any], str]) -> Callable[[Any], tuple[str, ...]]:
    """Return the check of a list whose single item may stand without brackets."""

    def check_list(value: object) -> tuple[str, ...]:
        return tuple(_each(value if isinstance(value, (list, tuple)) else (value,), check))

    return check_list


def matching(pattern: str, words: str) -> Callable[[Any], str]:
    """Return a check for text that matches all of ``pattern``; ``words`` say what it must be."""
    fits = re.compile(pattern).fullmatch

    def check(value: object) -> str:
        if type(value) is str and value.isascii() and fits(value) is not None:  # nearly all
            return value
        text = text_of(value)
        if fits(text) is None:
            raise ValueError(f"{shown(text)} {words}")
        return text

    return check


def one_of(*words: str) -> Callable[[Any], str]:
    """Return a check for one word out of ``words``."""

    def check(value: object) -> str:
        if value in words:
            return str(value)
        raise ValueError(f"{shown(value)} is none of {', '.join(words)}")

    return check


# a word goes into the names of Redis keys ("User:ann") and into argv of a scheduler: no colon, blank or leading minus
WORD = r"(?!-)[^\s:\x00-\x20\x7f-\x9f]{1,128}"
_word = matching(WORD, "must be one word of at most 128 characters, without blanks and ':' and without a leading '-'")
check_id = matching(ID_PATTERN, "must be letters, digits, '.', '_', '-' (at most 64, the first a letter or digit)")


def check_job_id(value: object) -> str:
    """Return an id; those words that stand for other jobs on the command line are none (`cancel all`)."""
    text = check_id(value)
    if text in ("all", "last"):
        raise ValueError(f"{shown(text)} means other jobs in every command; use another id")
    return text


check_file = matching(ID_PATTERN, "must be a plain file name of letters, digits, '.', '_', '-' (at most 64)")


def _glob(value: object) -> str:
    text = _path(value)
    parts = PurePosixPath(text).parts
    if text.startswith(("/", "~")) or ".." in parts:
        raise ValueError(f"{shown(text)} must stay below the working directory: no leading '/' or '~', no '..'")
    if not 0 < len(parts) <= MAX_PARTS:
        raise ValueError(f"{shown(text)} must name files, at most {MAX_PARTS} folders down")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError(f"{shown(text)} has '**' beside other signs; it must stand alone, as in **/*.txt")
    return text


def _target(value: object) -> str:
    text = _path(value)
    parts = PurePosixPath(text).parts
    if text.startswith(("/", "~")) or ".." in parts or not parts:
        raise ValueError(f"{shown(text)} must stay below the working directory: no leading '/' or '~', no '..'")
    return "/".join(parts)


def _env(value: object) -> dict[str, str]:
    """Turn the values into text: numbers as they print, booleans as ``true`` and ``false``; sorted by name."""
    if type(value) is not dict and not isinstance(value, Mapping):
        raise ValueError("must be a mapping of NAME: value")
    return {_env_name(name): _env_value(name, value[name]) for name in sorted(value, key=str)}


def _env_name(name: object) -> str:
    if not isinstance(name, str) or _is_env_name(name) is None:
        raise ValueError(f"{shown(name)} is no name of a variable; use letters, digits and '_', not a digit first")
    if name in RESERVED_ENV:
        raise ValueError(f"{name} is set by jobmill itself; use another name")
    return name


def _env_value(name: str, value: object) -> str:
    if type(value) is str and value.isascii() and "\0" not in value:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if value is None:
        return ""
    try:
        return text_of(value, what="must be a single value")
    except ValueError as bad:
        raise ValueError(f"{name}: {bad}") from None


def _inherit(value: object) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    return tuple(_each(value if isinstance(value, (list, tuple)) else (value,), _variable))


_variable = matching(_ENV_NAME.pattern, "is no name of a variable; give a list of names, or true for all")


def _duration(value: Any) -> float:
    seconds = parse_duration(value)
    return int(seconds) if seconds == int(seconds) else seconds  # 7200 in the canonical text, not 7200.0


def _positive_duration(value: Any) -> float:
    seconds = _duration(value)
    if not seconds:
        raise ValueError("must be more than 0; leave it out for no limit")
    return seconds


def _memory(value: Any) -> int:
    size = parse_memory(value)
    if not size:
        raise ValueError("must be more than 0; leave it out for no limit")
    return size


def _moment(value: object) -> float:
    """Return the Unix time of ISO text (local time when it names no zone), of a datetime, or of a number as it is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not _EARLIEST <= value <= _LATEST:
            raise ValueError(f"{shown(value)} is no Unix time of this millennium; write 2026-12-01T08:00")
        return value
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime(value.year, value.month, value.day)
        else:
            text = text_of(value).strip()
            if len(text) > MAX_TIME:
                raise ValueError("too long")
            moment = datetime.fromisoformat(re.sub(r"\s+(?=[+-]|Z$)", "", text))
        seconds = moment.timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{shown(value)} is no date and time; write 2026-12-01T08:00 or 2026-12-01T08:00Z") from None
    if not _EARLIEST <= seconds <= _LATEST:
        raise ValueError(f"{shown(value)} must lie between the years 2001 and 3000")
    return int(seconds) if seconds == int(seconds) else seconds


def plain(value: Any, depth: int = 0) -> Any:
    """Return ``value`` as JSON can hold it, mappings sorted by key; raise ValueError for anything else."""
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("holds a number that is not finite")
        return value
    if isinstance(value, Mapping):
        return {
            text_of(key, what="each key must be text"): plain(value[key], depth + 1) for key in sorted(value, key=str)
        }
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    return text_of(value, what="each value must be text, a number, true or false")


def _plain_mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of name: value")
    result: dict[str, Any] = plain(value)
    return result


Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Modules = Annotated[tuple[str, ...], Check(_list_of(_module))]
Flag = Annotated[bool, Field(strict=True)]
JobId = Annotated[str, Check(check_job_id)]
Ids = Annotated[tuple[str, ...], Check(_list_of(check_job_id))]
SystemName = Annotated[str, Check(check_id)]
Name = Annotated[str, Check(_name)]
Word = Annotated[str, Check(_word)]
Words = Annotated[tuple[str, ...], Check(_list_of(_word))]
File = Annotated[str, Check(check_file)]
Files = Annotated[tuple[str, ...], Check(_list_of(check_file))]
FilePath = Annotated[str, Check(_path)]
Glob = Annotated[str, Check(_glob)]
Target = Annotated[str, Check(_target)]
Text = Annotated[str, Check(_filled)]
Command = Annotated[str | tuple[str, ...], Check(_command)]
Env = Annotated[dict[str, str], Check(_env)]
Inherit = Annotated[bool | tuple[str, ...], Check(_inherit)]
Duration = Annotated[float, Check(_duration)]
PositiveDuration = Annotated[float, Check(_positive_duration)]
Memory = Annotated[int, Check(_memory)]
Moment = Annotated[float, Check(_moment)]
PlainMapping = Annotated[dict[str, Any], Check(_plain_mapping)]
