"""What is wrong with a document, in words: pydantic's findings made into ``file:line: key: what; what to do``."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jobmill.errors import nearest
from jobmill.jobs.document import Document
from jobmill.jobs.spec_fields import shown
from jobmill.jobs.spec_keys import LATER, MEANT, OTHER_WORDS, RESOURCES, Path

MOST = 50  # problems that one message tells: a hostile document must not buy a hundred thousand searches

Problem = tuple[Path, str]  # canonical path of the key, and the words


def problems_of(error: ValidationError, keys: dict[str, tuple[str, ...]]) -> list[Problem]:
    """Return every finding of pydantic; ``keys`` are the known ones by the part's key (empty for the document)."""
    return [(tuple(found["loc"]), _words(found, keys)) for found in error.errors(include_url=False)[: MOST + 1]]


def _words(found: ErrorDetails, keys: dict[str, tuple[str, ...]]) -> str:
    kind, value, context = found["type"], found["input"], found.get("ctx", {})
    match kind:
        case "extra_forbidden":
            *above, key = found["loc"]
            part = next((str(word) for word in reversed(above) if isinstance(word, str)), "")
            known = keys.get(part, ())
            more = (*RESOURCES, *OTHER_WORDS, *LATER) if not part else tuple(OTHER_WORDS) if part == "resources" else ()
            meant = MEANT.get(str(key)) if part in ("", "resources") else None
            hint = f" (did you mean '{meant}'?)" if meant else nearest(str(key)[:64], (*known, *more))
            hint = hint or f"; known here: {', '.join(known)}"
            return f"unknown key{hint}"
        case "missing":
            return "is missing; it must be given"
        case "value_error":
            return str(context["error"])
        case "int_type" | "int_from_float":
            return f"must be a whole number{_not(value)}"
        case "float_type":
            return f"must be a number{_not(value)}"
        case "bool_type":
            return f"must be true or false{_not(value)}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {shown(value)}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {shown(value)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"must be a mapping of key: value{_not(value)}"
        case "tuple_type" | "list_type":
            return f"must be a list{_not(value)}"
    return f"{found['msg'].lower()}{_not(value)}"


def _not(value: Any) -> str:
    if isinstance(value, bool):
        return f", not {shown(value)} (YAML reads yes, no, on, off as true and false)"
    if isinstance(value, str):
        return f", not the text {shown(value)}" + ("; take the quotes away" if value.strip().isdecimal() else "")
    return f", not {shown(value)}"


def message(problems: list[Problem], document: Document | None, where: str) -> str:
    """Return one line for each problem, ordered by where it stands; paths are those of the document."""
    lines = []
    for path, words in problems[:MOST]:
        number = document.line(path) if document and path else document.first_line if document else None
        key = "".join(f"[{word}]" if isinstance(word, int) else f".{word}" for word in path).lstrip(".")
        key = "".join(char if char.isprintable() else "?" for char in key[:120])
        place = ":".join(str(part) for part in (where, number) if part)
        lines.append((number or 0, ": ".join(part for part in (place, key, words) if part)))
    told = [line for _, line in sorted(lines, key=lambda pair: pair[0])]
    if len(problems) > MOST:
        told.append(": ".join(part for part in (where, "and more; mend these first") if part))
    return "\n".join(told)
