"""YAML by libyaml's composer and a builder of our own, which is faster than PyYAML's and refuses what harms.

What comes out is `yaml.safe_load`'s, less what surprises: a key is the text that was written and stands once; a
number that JSON would not write so (``0755``, ``1_000``, ``1:30``) and a timestamp stay text; tags are refused. Depth,
and what aliases expand to, are bounded before anything is built.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from jobmill.errors import ConfigError
from jobmill.jobs.unfit import MAX_DEPTH, MAX_VALUES, TOO_DEEP, TOO_MANY, Twice, Unfit, line_at

MAX_NUMBER = 400  # characters of a number: Python's own conversion is quadratic

_TAG = "tag:yaml.org,2002:"
_STR, _NULL, _BOOL, _INT, _FLOAT, _MERGE = (_TAG + name for name in ("str", "null", "bool", "int", "float", "merge"))
_AS_TEXT = frozenset({_STR, _TAG + "timestamp", _TAG + "value"})
_KEY_TAGS = frozenset({_NULL, _BOOL, _INT, _FLOAT}) | _AS_TEXT
_BOOLS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_JSON_INT = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_HINTS = {  # libyaml's words -> what is usually behind them
    "expected <document start>": "; part documents by a line '---', indent what belongs together alike",
    "cannot start any token": "; indent by spaces, not tabs, and quote text that begins with one of @ ` % \t",
    "mapping values are not allowed": "; quote text that holds ': '",
    "undefined alias": "; quote text that begins with *",
}


def require_libyaml() -> None:
    """Raise ConfigError when PyYAML here lacks libyaml; its pure Python loader is ten times slower, and recursive."""
    import yaml

    if not yaml.__with_libyaml__:
        raise ConfigError(
            "PyYAML is installed here without libyaml, which jobmill needs to read YAML; "
            "do: python -m pip install --force-reinstall --only-binary :all: pyyaml"
        )


@functools.cache
def _loader() -> Any:
    require_libyaml()
    import yaml

    class Loader(yaml.CSafeLoader):
        """Composes nodes; these two hooks are the ones that the C composer calls for each node.

        Depth is looked at here because libyaml's binding recurses in C and would crash.
        """

        depth = 0
        values = 0

        def descend_resolver(self, current_node: Any, current_index: Any) -> None:
            self.depth += 1
            self.values += 1
            if self.depth > MAX_DEPTH or self.values > MAX_VALUES:
                line = None if current_node is None else current_node.start_mark.line + 1
                raise Unfit(line, TOO_DEEP if self.depth > MAX_DEPTH else TOO_MANY)

        def ascend_resolver(self) -> None:
            self.depth -= 1

    return Loader


def compose(text: str, *, together: bool = False) -> Iterator[Any]:
    """Yield the root of each document; MAX_VALUES bounds each of them, or all ``together``."""
    loader = _loader()(text)
    try:
        while loader.check_node():
            yield loader.get_node()
            if not together:
                loader.values = 0
    finally:
        loader.dispose()


def document_lines(text: str) -> list[int]:
    """Return the line, from 1, on which each document of a stream that can be read begins, with its directives."""
    import yaml

    loader = _loader()(text)
    lines = []
    try:
        while loader.check_event():
            event = loader.get_event()
            if type(event) is yaml.DocumentStartEvent:
                mark: Any = event.start_mark
                lines.append(mark.line + 1)
    finally:
        loader.dispose()
    return lines


def _composed(text: str, together: bool) -> list[Any]:
    import yaml

    try:
        return list(compose(text, together=together))
    except yaml.reader.ReaderError as bad:
        line = line_at(text, len(text.encode()[: bad.position].decode(errors="ignore")))
        raise Unfit(
            line, f"character {bad.character:#04x}: {bad.reason}; quote it as an escape or take it out"
        ) from None
    except yaml.MarkedYAMLError as bad:
        mark = bad.problem_mark or bad.context_mark
        words = ", ".join(str(part) for part in (bad.context, bad.problem) if part)
        where = f" (column {mark.column + 1})" if mark else ""
        hint = next((hint for sign, hint in _HINTS.items() if sign in words), "")
        raise Unfit(mark.line + 1 if mark else None, f"not valid YAML: {words}{where}{hint}") from None
    except yaml.YAMLError as bad:
        raise Unfit(None, f"not valid YAML: {bad}") from None


def read_yaml(text: str, limit: int, *, together: bool = False) -> list[tuple[int, int, Any]]:
    """Return (number in the stream, line from 1, value) of every document that is not empty; raise Unfit.

    ``limit``: the most characters that a document may have with its aliases written out. ``together``: as `compose`.
    """
    return [
        (number, node.start_mark.line + 1, _build(_measured(node, text, limit)))
        for number, node in enumerate(_composed(text, together))
        if not (node.tag == _NULL and node.value == "")
    ]


def children(node: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """Yield (key or position, mark, node) of a mapping's or list's parts."""
    if node.id == "mapping":
        for key, value in node.value:
            yield key.value if key.id == "scalar" else "", key.start_mark, value
    elif node.id == "sequence":
        for number, value in enumerate(node.value):
            yield number, value.start_mark, value


def _measured(root: Any, text: str, limit: int) -> Any:
    """Return ``root`` after making sure that writing its aliases out stays within ``limit`` and MAX_VALUES.

    Sizes are added up through the aliases, each node looked at once, so a bomb of any power costs nothing.
    """
    if "*" not in text or "&" not in text:
        return root
    sizes: dict[int, tuple[int, int, int] | None] = {}  # node -> (characters, height, values); None while it is open

    def measure(node: Any, depth: int) -> tuple[int, int, int]:
        key = id(node)
        if key in sizes:
            known = sizes[key]
            if known is None:
                raise Unfit(node.start_mark.line + 1, "an alias refers to what holds it; write it without the cycle")
            size, height, values = known
        elif node.id == "scalar":
            size, height, values = len(node.value) + 2, 0, 1
            sizes[key] = size, height, values
        else:
            if depth >= MAX_DEPTH:
                raise Unfit(node.start_mark.line + 1, TOO_DEEP)
            sizes[key] = None
            size, height, values = 2, 0, 1
            parts = node.value if node.id == "sequence" else [part for pair in node.value for part in pair]
            for part in parts:
                more, tall, many = measure(part, depth + 1)
                size, height, values = size + more, max(height, tall + 1), values + many
            sizes[key] = size, height, values
        if depth + height > MAX_DEPTH:
            raise Unfit(node.start_mark.line + 1, TOO_DEEP)
        if size > limit:
            raise Unfit(
                node.start_mark.line + 1, f"its aliases stand for more than {limit} characters; write it out, shorter"
            )
        if values > MAX_VALUES:
            raise Unfit(node.start_mark.line + 1, f"its aliases stand for {TOO_MANY}")
        return size, height, values

    measure(root, 1)
    return root


def _build(node: Any) -> Any:
    """Return the plain value of a composed node (its depth and size are known to be bounded)."""
    kind = node.id
    if kind == "scalar":
        value = node.value
        if "\0" in value:
            raise Unfit(node.start_mark.line + 1, "the text holds a NUL character; take it out")
        return value if node.tag == _STR else _scalar(node)
    if kind == "sequence":
        if node.tag != _TAG + "seq":
            _refuse_tag(node)
        return [_build(part) for part in node.value]
    if node.tag != _TAG + "map":
        _refuse_tag(node)
    mapping: dict[str, Any] = {}
    merged: list[Any] = []
    for key_node, value_node in node.value:
        if key_node.id != "scalar":
            raise Unfit(
                key_node.start_mark.line + 1, "a key must be text, not a list or a mapping; quote it if it is text"
            )
        if key_node.tag not in _KEY_TAGS:
            if key_node.tag == _MERGE:
                merged.append(value_node)
                continue
            _refuse_tag(key_node)
        key = key_node.value
        if key in mapping:
            raise Twice(key_node.start_mark.line + 1, key)
        if "\0" in key:
            raise Unfit(key_node.start_mark.line + 1, "a key holds a NUL character; take it out")
        mapping[key] = _build(value_node)
    for source in merged:  # "<<": what is said in the mapping itself wins, then the earlier of several
        for part in source.value if source.id == "sequence" else (source,):
            if part.id != "mapping":
                raise Unfit(part.start_mark.line + 1, "<< takes a mapping or a list of mappings")
            for key, value in _build(part).items():
                mapping.setdefault(key, value)
    return mapping


def _scalar(node: Any) -> Any:
    tag, text = node.tag, node.value
    if tag == _NULL:
        return None
    if tag == _BOOL and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    if tag in _AS_TEXT:
        return text
    line = node.start_mark.line + 1
    if tag in (_INT, _FLOAT):
        if len(text) > MAX_NUMBER:
            raise Unfit(line, f"a number of {len(text)} digits; quote it if it is text")
        if tag == _INT:
            return int(text) if _JSON_INT.fullmatch(text) else text
        if ":" in text:
            return text
        try:
            number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise Unfit(line, f"{text} is not a finite number; use a finite one, or quote it")
        return number
    _refuse_tag(node)


def _refuse_tag(node: Any) -> NoReturn:
    tag = "!!" + node.tag[len(_TAG) :] if node.tag.startswith(_TAG) else node.tag
    why = "could run code" if tag.startswith("!!python/") else "is not known here"
    raise Unfit(node.start_mark.line + 1, f"the tag {tag} {why}; only plain data is read: take the tag away")
