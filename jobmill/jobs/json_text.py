"""The fast path: JSON, by the standard library's decoder, less what it takes too kindly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from jobmill.jobs.unfit import MAX_DEPTH, MAX_VALUES, TOO_MANY, Twice, Unfit, line_at

# a text that is not closed is a token as well: else each of its quotes would begin another search to the end
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]|-?Infinity|NaN|-?[0-9][0-9.eE+-]*', re.DOTALL)


class _NotFinite(Exception):
    """NaN, Infinity, or a number too large for a float."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Twice(None, key)
            seen.add(key)
    return mapping


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotFinite(text)
    return number


_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)
_decode_unique = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite).decode


def read_json(text: str) -> dict[str, Any] | None:
    """Return the mapping, or None when the YAML reader has to look: no JSON (YAML in braces), or nested too deep.

    Raise Unfit for JSON that is refused; Twice comes without its line.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(text):
        return None
    try:
        mapping = _decode(text)
        if _pairs(mapping) != text.count(":"):  # a key stands twice, or text holds a colon: to be looked at, slowly
            mapping = _decode_unique(text)
    except _NotFinite as bad:
        place = next((t.start() for t in _TOKEN.finditer(text) if t[0] == str(bad)), 0)
        raise Unfit(line_at(text, place), f"{bad} is not a finite number; use a finite one, or quote it") from None
    except ValueError:
        return None
    if len(text) > MAX_VALUES // 2 and sum(map(text.count, ",:[{")) > MAX_VALUES // 2 and _values(mapping) > MAX_VALUES:
        raise Unfit(None, TOO_MANY)
    if "\\u" in text:
        _refuse_escapes(text, mapping)
    return mapping


def _decode(text: str) -> dict[str, Any]:
    """Return the mapping; raise ValueError where the text is not one mapping and nothing else."""
    bare = text.strip(" \t\n\r")
    mapping: dict[str, Any]
    mapping, end = _decoder.raw_decode(bare)
    if end != len(bare):
        raise ValueError(f"more text behind the mapping, from character {end} on")
    return mapping


def _pairs(mapping: dict[str, Any]) -> int:
    """Count the keys of all mappings: as many as colons, where no key was said twice and no text holds one."""
    found = len(mapping)
    for part in mapping.values():
        kind = type(part)
        if kind is dict:
            found += _pairs(part)
        elif kind is list:
            found += _pairs_in(part)
    return found


def _pairs_in(items: list[Any]) -> int:
    found = 0
    for part in items:
        kind = type(part)
        if kind is dict:
            found += _pairs(part)
        elif kind is list:
            found += _pairs_in(part)
    return found


def _values(value: Any) -> int:
    """Count keys and values as the YAML reader does."""
    if type(value) is dict:
        return 1 + len(value) + sum(map(_values, value.values()))
    return 1 + sum(map(_values, value)) if type(value) is list else 1


def _is_deep(text: str) -> bool:
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token[0] in "]}":
            depth -= 1
    return False


def _refuse_escapes(text: str, mapping: Mapping[str, Any]) -> None:
    r"""Refuse what only an escape can bring in: NUL (``\u0000``) and half a surrogate pair."""
    whole = json.dumps(mapping, ensure_ascii=False)
    if "\\u0000" not in whole and _encodable(whole):
        return
    for token in _TOKEN.finditer(text):
        if token[0][0] == '"' and "\\u" in token[0]:
            word = json.loads(token[0])
            if "\0" in word:
                raise Unfit(line_at(text, token.start()), "the text holds a NUL character (\\u0000); take it out")
            if not _encodable(word):
                raise Unfit(
                    line_at(text, token.start()), "the text holds half a surrogate pair, which is no UTF-8; mend it"
                )


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
