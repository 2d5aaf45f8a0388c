"""Reading an entry: what comes out, what is refused and where, and that nothing hostile gets far."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobmill.errors import ConfigError, SpecError
from jobmill.jobs.document import MAX_DEPTH, load, require_libyaml, value_of

MIB = 1 << 20
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


def read(text: str | bytes, limit: int = 4 * MIB) -> list[Any]:
    data = text.encode() if isinstance(text, str) else text
    return [document.data for document in load(data, limit=limit, where="f")]


def refusal(text: str | bytes, limit: int = 4 * MIB) -> str:
    with pytest.raises(SpecError) as caught:
        read(text, limit)
    return str(caught.value)


def test_json_and_yaml_give_the_same() -> None:
    assert read('{"a": [1, 2.5, null, true, "x"], "b": {}}') == read("a: [1, 2.5, ~, true, x]\nb: {}\n")


def test_keys_are_text_as_written() -> None:
    assert read("on: 1\nyes: 2\n3: 4\nnull: 5\n1.0: 6\n") == [{"on": 1, "yes": 2, "3": 4, "null": 5, "1.0": 6}]


def test_numbers_that_json_would_not_write_and_timestamps_stay_text() -> None:
    written = {
        "a": "1:30",
        "b": "01:30:00",
        "c": "0755",
        "d": "1_000",
        "e": "0x1F",
        "f": "2026-12-01T08:00",
        "g": "2026-12-01",
        "h": "2026-12-01T08:00:00Z",
        "i": "1:30.5",
        "j": "+5",
        "k": "=",
    }
    assert read("".join(f"{key}: {value}\n" for key, value in written.items())) == [written]


def test_plain_values() -> None:
    assert read("a: yes\nb: off\nc: -3\nd: 1.50\ne: ~\nf:\ng: '1'\nh: 1.0e+3\ni: !!str 5") == [
        {"a": True, "b": False, "c": -3, "d": 1.5, "e": None, "f": None, "g": "1", "h": 1000.0, "i": "5"}
    ]


def test_a_stream_is_several_documents_each_with_its_line() -> None:
    documents = load(b"# first\na: 1\n---\n\n---\nb: 2\n...\n---\n{c: 3}\n", limit=MIB)
    assert [document.data for document in documents] == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert [document.first_line for document in documents] == [2, 6, 9]
    assert [load(d.entry.encode(), limit=MIB)[0].data for d in documents] == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert documents[1].line(("b",)) == 6


@given(st.lists(st.dictionaries(st.text("abcé: #-", min_size=1), TEXT, min_size=1), min_size=1))
def test_documents_of_a_stream_load_alone(values: list[dict[str, str]]) -> None:
    text = yaml.safe_dump_all(values, explicit_start=True, allow_unicode=True)
    values = list(
        yaml.load_all(text, yaml.CSafeLoader)
    )  # PyYAML folds what it wrote itself: a lone NEL comes back as a blank
    documents = load(text.encode(), limit=MIB)
    assert [document.data for document in documents] == values
    for document, value in zip(documents, values, strict=True):
        (alone,) = load(document.entry.encode(), limit=MIB)
        assert alone.data == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "f: there is nothing"),
        ("# only words\n---\n", "f: there is nothing"),
        ("- a\n", "f:1: a document must be a mapping"),
        ("words\n", "f:1: a document must be a mapping"),
        ("[1]", "f:1: a document must be a mapping"),
        ("a: 1\nb: 2\na: 3\n", "f:3: a: this key stands twice"),
        ("a:\n  b: 1\n  'b': 2\n", "f:3: b: this key stands twice"),
        ('{"a": 1,\n "a": 2}', "f:2: a: this key stands twice"),
        ('{"": 1,\n "": 2}', "this key stands twice"),
        ('{"a": "\\ud83d\\ude00", "b": {"c": 1, "c": 2}}', "c: this key stands twice"),
        ('{"a":\n NaN}', "f:2: NaN is not a finite"),
        ('{"NaN": -Infinity}', "f:1: -Infinity is not a finite"),
        ('{"a":\n\n 1e999}', "f:3: 1e999 is not a finite"),
        ("a: .inf", "f:1: .inf is not a finite"),
        ("a: -.INF", "is not a finite"),
        ("a: .nan", "is not a finite"),
        ("a: 1.0e+999", "is not a finite"),
        (b"a: b\nc: \xff\n", "f:2: byte 8 (0xff) is no UTF-8"),
        (b"a: b\n\0", "f:2: byte 5 is NUL"),
        ('a: b\nc: "x\\0"', "f:2: the text holds a NUL"),
        ('"a\\0": b', "f:1: a key holds a NUL"),
        ('{"a":\n"\\u0000"}', "f:2: the text holds a NUL"),
        ('{"a\\u0000": 1}', "f:1: the text holds a NUL"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ("a: \x07", "f:1: character 0x07"),
        ("é: é\nb: \x01", "f:2: character 0x01"),
        ("a: !!python/object/apply:os.system [id]", "f:1: the tag !!python/object/apply:os.system could run code"),
        ("a: !!python/name:os.system", "could run code"),
        ("!!python/object:x {}", "could run code"),
        ("? !!python/name:os.system\n: 1", "could run code"),
        ("a: !mine x", "the tag !mine is not known"),
        ("a: !!set {x, y}", "the tag !!set is not known"),
        ("a: !!binary aGk=", "the tag !!binary is not known"),
        ("? [a, b]\n: c", "f:1: a key must be text"),
        ("a: [1\nb: 2", "f:2: not valid YAML"),
        ("a: b: c", "quote text that holds ': '"),
        ("a:\n\t- b", "not tabs"),
        ("a: *.sam", "f:1: not valid YAML"),
        ("a: *nope", "quote text that begins with *"),
        ("a: " + "9" * 500, "f:1: a number of 500 digits"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("a: " + "1" + ":00" * 50_000, "digits"),
        ("<<: 3", "<< takes a mapping"),
        ('{"a": 1}\n{"b": 2}', "f:2: not valid YAML"),
    ],
)
def test_refusals_say_where(text: str | bytes, words: str) -> None:
    assert words in refusal(text)


def test_the_limit_is_told_with_both_sizes() -> None:
    assert refusal("a: " + "x" * 100, limit=50).startswith("f: 103 bytes are more than the limit of 50")


def test_escapes_that_only_look_bad_pass() -> None:
    assert read('{"a": "\\\\u0000", "b": "\\ud83d\\ude00", "c": "\\u00e9"}') == [{"a": "\\u0000", "b": "😀", "c": "é"}]


def test_a_byte_order_mark_is_dropped() -> None:
    assert read(b'\xef\xbb\xbf{"a": 1}') == read(b"\xef\xbb\xbfa: 1") == [{"a": 1}]


def test_yaml_in_braces() -> None:
    assert read("{a: b, c: [d]}") == [{"a": "b", "c": ["d"]}]
    many = "{a: '" + "[" * 200 + "'}"
    assert read(many) == [{"a": "[" * 200}]
    assert read(json.dumps({"a": "[" * 200})) == [{"a": "[" * 200}]


def test_aliases_and_merges() -> None:
    text = "base: &b {x: 1, y: 2}\nz: &z {y: 9, w: 0}\n"
    text += "one: {<<: *b, y: 3}\ntwo: {y: 4, <<: [*b, *z]}\nlist: &l [*b]\nl2: *l\n"
    (data,) = read(text)
    assert data["one"] == {"x": 1, "y": 3}
    assert data["two"] == {"x": 1, "y": 4, "w": 0}
    assert data["l2"] == [{"x": 1, "y": 2}]
    assert data == yaml.safe_load(text)


def _chain(count: int, link: str) -> str:
    return "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} " + link.format(b=f"*a{n - 1}") + "\n" for n in range(1, count))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_chain(40, "[{b},{b},{b},{b},{b},{b},{b},{b},{b}]"), "aliases stand for more than"),
        (_chain(40, "{{<<: [{b},{b}]}}"), "aliases stand for more than"),
        (_chain(40, "{{x: {b}, y: {b}}}"), "aliases stand for more than"),
        ("a: &a " + "x" * 60_000 + "\nb: [" + ", ".join(["*a"] * 1000) + "]", "aliases stand for more than"),
        (_chain(2000, "[{b}]"), "nested more than"),
        (_chain(2000, "{{<<: {b}}}"), "nested more than"),
        ("a: &a [*a]", "f:1: an alias refers to what holds it"),
        ("&r a: &a {b: &b [*a]}", "an alias refers to what holds it"),
        ("a: &a {<<: *a}", "an alias refers to what holds it"),
    ],
)
def test_alias_bombs_are_cheap_to_refuse(text: str, words: str) -> None:
    began = time.process_time()
    assert words in refusal(text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", '{"a":', "!!seq ["])
def test_a_hundred_thousand_levels_are_refused_not_survived_by_luck(opening: str) -> None:
    assert "nested more than" in refusal(opening * 100_000)
    assert "nested more than" in refusal("{" + '"a":' + "[" * 100_000)


def test_json_and_yaml_agree_on_the_depth() -> None:
    for text in ("[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2), "[" * MAX_DEPTH + "]" * MAX_DEPTH):
        fits = len(text) < 2 * MAX_DEPTH
        for whole in ('{"a": ' + text + "}", "a: " + text):
            if fits:
                assert len(read(whole)) == 1
            else:
                assert "nested more than" in refusal(whole)


def test_deep_nesting_in_a_small_thread_stack_does_not_crash_the_process() -> None:
    script = (
        "import threading; threading.stack_size(256 << 10)\n"
        "from jobmill.jobs.document import load\n"
        "def run():\n"
        "    for text in (b'[' * 100000, b'a: ' + b'[' * 100000, b'- ' * 100000):\n"
        "        try: load(text, limit=1 << 20)\n"
        "        except Exception as bad: print(type(bad).__name__)\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["SpecError"] * 3), done.stderr


def test_lines_and_written_text() -> None:
    (document,) = load(b"# c\na: 1\nb:\n  c: [x,\n   3.10]\n  d: {e: yes}\n", limit=MIB)
    assert document.first_line == 2
    assert [document.line(path) for path in [("a",), ("b", "c"), ("b", "c", 1), ("b", "d", "e")]] == [2, 4, 5, 6]
    assert document.line(("b", "nope", "x")) == 3
    assert document.line(("nope",)) is None
    assert document.written(("b", "c", 1)) == "3.10"
    assert document.written(("b", "d", "e")) == "yes"
    assert document.written(("b", "d")) is None


def test_lines_of_json() -> None:
    (document,) = load(b'{"a": 1,\n\t"b": {\n "c": 2}}', limit=MIB)
    assert document.line(("b", "c")) == 3
    (surrogates,) = load(b'{"a": "\\ud83d\\ude00"}', limit=MIB)
    assert surrogates.line(("a",)) is None


def test_empty_may_be_allowed_and_the_error_chosen() -> None:
    assert list(load(b"# nothing\n", limit=MIB, empty=True)) == []
    with pytest.raises(ConfigError, match=r"^cfg:1: "):
        load(b"[]", limit=MIB, where="cfg", error=ConfigError)


def test_libyaml_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    require_libyaml()
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    with pytest.raises(ConfigError, match="pip install"):
        require_libyaml()


def test_value_of() -> None:
    assert [value_of(text) for text in ("4", "[a, 1]", "", "yes", "8G", "{a: b}")] == [
        4,
        ["a", 1],
        None,
        True,
        "8G",
        {"a": "b"},
    ]
    for bad in ("[", "!!python/name:os.system ''", "a\n---\nb"):
        with pytest.raises(SpecError):
            value_of(bad)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc<=*&\n\x7f😀", max_size=5), values, max_size=5), st.booleans())
def test_any_json_mapping_comes_back(mapping: dict[str, Any], ascii_only: bool) -> None:
    assert read(json.dumps(mapping, ensure_ascii=ascii_only)) == [mapping]


@given(st.binary(max_size=200) | st.text("{}[]:,-?&*!|>'\"#% \n\tab1.<=", max_size=60).map(str.encode))
def test_any_bytes_give_documents_or_a_spec_error(data: bytes) -> None:
    try:
        documents = load(data, limit=1000)
    except SpecError as bad:
        assert "\n" not in str(bad)
        return
    for document in documents:
        json.dumps(document.data, allow_nan=False).encode()
        assert load(document.entry.encode(), limit=1000)[0].data == document.data


@pytest.mark.parametrize(
    "text",
    [
        '{"\\u001b[31m\\n\\u202ek": 1, "\\u001b[31m\\n\\u202ek": 2}',
        '"\\e[31m\\n\\u202ek": 1\n"\\e[31m\\n\\u202ek": 2\n',
        "a: !<x%1b[31m%0ay%e2%80%ae> {}",
        f"{'k' * 5000}: 1\n{'k' * 5000}: 2\n",
    ],
)
def test_words_that_quote_a_text_are_printable_and_short(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700


@given(st.text("{}[]:,-&*'\"# \nab12.<yn~", max_size=40))
def test_agrees_with_safe_load_where_both_take_it(text: str) -> None:
    try:
        (mine,) = read(text)
        theirs = yaml.safe_load(text)
    except (SpecError, yaml.YAMLError, ValueError, TypeError):
        return
    assert _texts(mine) == _texts(theirs)


def _texts(value: Any) -> Any:
    """Compare shapes and texts: keys and odd numbers are text with us on purpose."""
    if isinstance(value, dict):
        return len(value) and [_texts(inner) for inner in value.values()]
    if isinstance(value, list):
        return [_texts(inner) for inner in value]
    return value if isinstance(value, bool) or value is None else "scalar"
