"""One entry of a queue or a file, read into plain documents: YAML, or JSON by a fast path.

What is read is `yaml.safe_load` by libyaml, less what surprises or harms:

* a key is always the text that was written (``on:`` stays ``on``), and stands once;
* a number that JSON would not write so (``0755``, ``1_000``, ``1:30``) and a timestamp stay text;
* depth, size and what aliases expand to are bounded before anything is built; tags are refused.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobmill.errors import SpecError, UsageError
from jobmill.jobs.json_text import read_json
from jobmill.jobs.quantity import format_memory
from jobmill.jobs.unfit import MAX_DEPTH, Twice, Unfit, line_at
from jobmill.jobs.yaml_text import children, compose, document_lines, read_yaml, require_libyaml

__all__ = ["MAX_DEPTH", "Document", "load", "require_libyaml", "value_of"]

MAX_VALUE = 1 << 20  # characters of a single value

_DIRECTIVE = re.compile(r"^%", re.MULTILINE)

Path = Sequence[str | int]  # of a key: ("steps", 0, "name")


@dataclass(kw_only=True)  # not frozen: that triples the time to make one
class Document:
    """One mapping out of an entry, which knows where it stood."""

    data: Mapping[str, Any]  # plain values: text, numbers, booleans, None, lists, mappings with text keys
    where: str  # the file's name or the entry's, for messages
    first_line: int  # line of the entry on which it starts, from 1
    text: str = field(repr=False)  # the entire entry
    index: int = 0  # which document of the entry, from 0
    entry: str = field(repr=False)  # this document's own text: loads alone to the same data

    def line(self, path: Path) -> int | None:
        """Return the line of a key, or of the nearest part of its path that exists; None when not even the first does.

        Reads the text a second time, so it is for messages only.
        """
        found = self._find(path)
        return found[0] if found else None

    def written(self, path: Path) -> str | None:
        """Return the text of a single value as it was written (``3.10``, ``yes``), or None when there is none."""
        found = self._find(path)
        return found[1].value if found and found[2] and type(found[1].value) is str else None

    def _find(self, path: Path) -> tuple[int, Any, bool] | None:
        node, line, found = self._root, None, 0
        for step in path:
            part = None if node is None else self._parts(node).get(step)
            if part is None:
                break
            line, node = part
            found += 1
        return None if line is None else (line, node, found == len(path))

    def _parts(self, node: Any) -> dict[str | int, tuple[int, Any]]:
        """Return (line, node) by key or position; kept, because one document may be asked for each of its keys."""
        parts = self._known.get(id(node))
        if parts is None:
            parts = self._known[id(node)] = {}
            for key, mark, value in children(node):
                parts.setdefault(key, (mark.line + 1, value))
        return parts

    @functools.cached_property
    def _known(self) -> dict[int, dict[str | int, tuple[int, Any]]]:
        return {}

    @functools.cached_property
    def _root(self) -> Any:
        try:
            for number, node in enumerate(compose(self.text)):
                if number == self.index:
                    return node
        except Exception:  # JSON that is no YAML (a surrogate pair): a message without its line is still a message
            return None
        return None


def load(
    data: bytes,
    *,
    limit: int,
    where: str = "entry",
    empty: bool = False,
    together: bool = False,
    error: type[UsageError] = SpecError,
) -> Sequence[Document]:
    """Return the documents of ``data``, at least one unless ``empty``; raise ``error`` for what cannot be read.

    ``limit``: the most bytes taken, and the most characters of a document with its aliases written out.
    ``together``: MAX_VALUES holds for all the documents together, not for each.
    """
    try:
        return _documents(data, limit, where, empty, together)
    except Unfit as bad:
        raise error(f"{where}:{bad.line}: {bad.words}" if bad.line else f"{where}: {bad.words}") from None


def value_of(text: str, *, where: str = "value") -> Any:
    """Return what ``text`` means as a YAML value (``--set key=text``); raise SpecError when it is none."""
    try:
        values = read_yaml(text, MAX_VALUE)
    except Unfit as bad:
        raise SpecError(f"{where}: {bad.words}") from None
    if len(values) > 1:
        raise SpecError(f"{where}: is more than one value; quote it")
    return values[0][2] if values else None


def _documents(data: bytes, limit: int, where: str, empty: bool, together: bool) -> list[Document]:
    text = _text_of(data, limit)
    if text.startswith("{") or text.lstrip().startswith("{"):
        try:
            mapping = read_json(text)
        except Twice as twice:
            raise _located(twice, text, limit) from None
        if mapping is not None:
            line = 1 if text[0] == "{" else line_at(text, len(text) - len(text.lstrip()))
            return [Document(data=mapping, where=where, first_line=line, text=text, entry=text)]
    found = read_yaml(text, limit, together=together)
    if not found and not empty:
        raise Unfit(None, "there is nothing in it; a job needs at least 'command: …'")
    # a document begins at a line of its own, so its text is the lines up to the next one's start
    lines = text.splitlines(keepends=True) if len(found) > 1 else [text]
    starts = [line for _, line, _ in found]
    if len(found) > 1 and _DIRECTIVE.search(text):  # these stand before the document that they are for
        marks = document_lines(text)
        starts = [marks[number] for number, _, _ in found]
    ends = [line - 1 for line in starts[1:]] + [len(lines)]
    documents, begin = [], 0
    for (index, line, value), end in zip(found, ends, strict=False):
        if type(value) is not dict:
            kind = "a list" if type(value) is list else "a single value"
            raise Unfit(
                line, f"a document must be a mapping ('key: value'), not {kind}; part documents by a line '---'"
            )
        entry = "".join(lines[begin:end])
        begin = end
        documents.append(Document(data=value, where=where, first_line=line, text=text, index=index, entry=entry))
    return documents


def _text_of(data: bytes, limit: int) -> str:
    if len(data) > limit:
        size = format_memory(limit >> 20) if limit >= 1 << 20 else f"{limit} bytes"
        raise Unfit(None, f"{len(data)} bytes are more than the limit of {limit} ({size}); name large input as a file")
    try:
        text = data.decode()
    except UnicodeDecodeError as bad:
        line = data.count(b"\n", 0, bad.start) + 1
        words = f"byte {bad.start} (0x{data[bad.start]:02x}) is no UTF-8; save the text as UTF-8"
        raise Unfit(line, words) from None
    if "\0" in text:
        offset = data.index(0)
        raise Unfit(data.count(b"\n", 0, offset) + 1, f"byte {offset} is NUL; this is no text")
    return text.removeprefix("\ufeff")


def _located(twice: Twice, text: str, limit: int) -> Unfit:
    """Return the same finding with its line, where the text is YAML as well (a surrogate pair's escapes are not)."""
    try:
        read_yaml(text, limit)
    except Twice as located:
        return located
    except Unfit:
        pass
    return twice
