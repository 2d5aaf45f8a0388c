"""Texts that readers of YAML and JSON have stumbled over, each made small or large by chance."""

from __future__ import annotations

import json
from random import Random

TAGS = [
    *["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!!python/object/new:type []", "!x y", "! y"],
    *[
        "!!binary R0lGODlh",
        "!!set {a, b}",
        "!!omap [a: b]",
        "!!timestamp 2001-12-14",
        "!!int abc",
        "!!float x",
        "!!bool 7",
    ],
    *[
        "!!str 5",
        "!!null ''",
        "!!map {a: b}",
        "!!seq [a]",
        "!<tag:yaml.org,2002:str> 5",
        "!<!> x",
        "!!merge x",
        "!!value =",
    ],
]
JUNK = [
    b"",
    b" ",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\x1b[2J",
]


def _size(draw: Random) -> int:
    return draw.choice([1, 3, 10, 63, 64, 65, 66, 200, 1000])


def bomb(draw: Random, job: str) -> str:
    """A billion laughs, of any width and power; small ones are a job."""
    width, power = draw.randrange(1, 12), draw.randrange(1, 14)
    lines = [f"a0: &a0 [{','.join(['x'] * width)}]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * width)}]" for n in range(1, power)]
    inner = "".join(f"  {line}\n" for line in lines)
    return f"{job}command: 'true'\nparams:\n{inner}"


def cycle(draw: Random, job: str) -> str:
    """Aliases that refer to what holds them, to nothing, or to an anchor that stands twice."""
    value = draw.choice(["&a [*a]", "&a {b: *a}", "*nobody", "[&a x, &a y, *a]", "&a [&b [*a], *b]", "&é x"])
    return f"{job}command: 'true'\nparams: {{p: {value}}}\n"


def merge(draw: Random, job: str) -> str:
    """Merge keys: a mapping, several, none, themselves."""
    source = draw.choice(
        ["*m", "[*m, *m]", "[]", "x", "[x]", "[[*m]]", "{command: 'false', <<: *m}", "null", "*m\n<<: *m"]
    )
    return f"{job}env: &m {{A: b, command: c}}\n<<: {source}\ncommand: 'true'\n"


def twice(draw: Random, job: str) -> str:
    """A key that stands twice, at the top or further in, plain or quoted."""
    key = draw.choice(["command", '"command"', "'command'", "? command\n", "!!str command", "&k command"])
    return f"{job}command: 'true'\n{key}: 'false'\n"


def tagged(draw: Random, job: str) -> str:
    """A tag on a value, a key, or the document."""
    tag = draw.choice(TAGS)
    return draw.choice(
        [f"{job}command: {tag}\n", f"{job}command: x\n{tag}: 1\n", f"{tag}\n", f"--- {tag}\n{job}command: x\n"]
    )


def deep(draw: Random, job: str) -> str:
    """Mappings or lists in one another, closed or not."""
    size = _size(draw)
    left, right = draw.choice([("[", "]"), ("{a: ", "}"), ("[{a: ", "}]"), ("- ", ""), ("? ", ""), ('{"a":[', "]}")])
    return f"{job}command: 'true'\nparams: {{p: {left * size}x{right * draw.choice([size, size - 1, 0])}}}\n"


def indented(draw: Random, job: str) -> str:
    """A staircase of keys."""
    size = _size(draw)
    return f"{job}command: 'true'\nparams:\n" + "".join(f"{' ' * (n + 1)}k:\n" for n in range(min(size, 300)))


def long_line(draw: Random, job: str) -> str:
    """One very long something."""
    size = draw.choice([1000, 1024, 1025, 70_000])
    return draw.choice(
        [
            f"{job}command: {'x ' * size}\n",
            f"{job}{'k' * size}: 1\ncommand: x\n",
            f"{job}command: x # {'c' * size}\n",
            f"{job}command: x\npriority: {'1' * size}\n",
            f'{job}command: "' + "\\x41" * size + '"\n',
            f"{job}? {'k' * size}\n: x\n",
            f"{job}command: x\ntags: [{'a,' * size}]\n",
            f"{job}command: x\nstart_after: 1{' ' * size}x\n",
        ]
    )


def directive(draw: Random, job: str) -> str:
    """Directives, right and wrong, before one document or between two."""
    head = draw.choice(
        [
            "%YAML 1.1\n",
            "%YAML 1.2\n",
            "%YAML 9.9\n",
            "%YAML 1.1\n%YAML 1.1\n",
            "%TAG ! tag:x,2000:\n",
            "%FOO bar\n",
            "%\n",
        ]
    )
    names = "%TAG !y! tag:yaml.org,2002:\n---\ncommand: !y!str 5\n"
    return draw.choice(
        [f"{head}---\n{job}command: x\n", f"{job}command: x\n...\n{names}", f"{job}command: x\n{head}---\nb: 1\n"]
    )


def stream(draw: Random, job: str) -> str:
    """Several documents, some empty, some no mapping, parted in every way there is."""
    parts = [
        "command: 'true'\n",
        "# only words\n",
        "",
        "- a\n",
        "text\n",
        "{a: b}\n",
        '{"command": "true"}\n',
        "|\n x\n",
    ]
    good = (
        parts[:3]
        + parts[6:7]
        + ["command: |+\n  x\n\n\n", "commandd: x\n", "command: >\n  a\n\n  b\n", 'command: "a\n\n b"\n']
    )
    chosen = [draw.choice(good if draw.random() < 0.9 else parts) for _ in range(draw.choice([2, 2, 3, 8, 30]))]
    line = draw.choice(
        ["---\n", "--- \n", "...\n---\n", "--- # c\n", "---\r\n", "\n---\n\n", "---\u2028", "---\r", "--- "]
    )
    return f"{job}{draw.choice(good[:1])}" + "".join(line + part for part in chosen)


def blanks(draw: Random, job: str) -> str:
    """Tabs, breaks of every kind, ends of documents, comments only."""
    body = draw.choice(
        ["\tcommand: x\n", "command:\tx\n", "command: x\n\tname: y\n", "env:\n\tA: b\n", "command: 'x\n\ty'\n"]
    )
    kept = f"{job}command: x\n"
    odd = [
        f"{job}{body}",
        kept.replace("\n", "\r"),
        kept.replace("\n", "\r\n"),
        kept.replace("\n", "\u0085"),
        f"{kept}...\nx",
    ]
    odd += [
        f"{kept}...\n",
        f"{kept}---\n",
        f"---\n{kept}---\n...\n",
        "# c\n" * 5,
        "---\n" * 4,
        "...\n",
        f"\ufeff{kept}",
        "\t",
        "%",
    ]
    odd += [
        f"{kept}\ufeffname: x\n",
        f"\u2028{kept}",
        kept.replace("\n", "\u2029"),
        f"{kept}\x0cname: y\n",
        f"{kept}\x1c\n",
    ]
    return draw.choice(odd)


def unquoted(draw: Random, job: str) -> str:
    """Scalars that mean something else than they seem to."""
    words = [
        "@x",
        "`x`",
        "%x",
        "x: y",
        "- x",
        "? x",
        "[x",
        "{x",
        "*x",
        "&x",
        "!x",
        "|x",
        ">x",
        "'x",
        '"x',
        "#x",
        "x #y",
        ",x",
        "}",
    ]
    words += [
        "no",
        "on",
        "~",
        "=",
        "<<",
        "0o17",
        "0b1",
        "1:30:00",
        "2026-12-01",
        "+1",
        ".5",
        "1.",
        "1e3",
        "-.inf",
        ".NaN",
        "0x",
    ]
    words += [
        '"\\ud83d\\ude00"',
        '"\\uD800"',
        '"\\U00110000"',
        '"\\x00"',
        '"\\q"',
        '"\\/"',
        '"a\\\n  b"',
        "''''",
        "\u00a0x",
    ]
    key = draw.choice(
        ["command", "name", "priority", "hold", "env: {A", "walltime", "memory", "start_after", "tags", "params: {p"]
    )
    return f"{job}command: x\n{key}: {draw.choice(words)}{'}' if '{' in key else ''}\n"


def json_trick(draw: Random, job: str) -> str:
    """What the fast path must leave alone, refuse, or read as the slow one does."""
    head = f'{{"id": {json.dumps(job[4:].strip())}, ' if job else "{"
    size = _size(draw)
    bodies = [
        '"command": "x", "command": "y"}',
        '"command": "x"} x',
        '"command": "x"}}',
        '"command": "x",}',
        '"command": "x"',
        '"command": "x", "priority": NaN}',
        '"command": "x", "priority": -Infinity}',
        '"command": "x", "priority": 1e999}',
        '"command": "x", "priority": 1E2}',
        '"command": "x", "priority": 01}',
        '"command": "x", "priority": -0}',
        '"command": "x", "memory": ' + "9" * size + "}",
        '"command": "x", "params": {"p": ' + "9" * (size * 5) + "}}",
        '"command": "\\u0000"}',
        '"command": "\\ud800"}',
        '"command": "\\ud83d\\ude00"}',
        '"com\\u0061nd": "x"}',
        '"command": "x", "params": {"p": ' + "[" * size + "]" * size + "}}",
        '"command": "' + '\\"' * size,
        '"command": "x", "params": {"' + "[" * size + '": "' + '\\"' * size,
        "command: x}",
        "'command': x}",
        '"command": x}',
        '"command": "x"}\n{"command": "y"}',
        '"command": "x"}\n---\n{"command": "y"}',
        '"command": "x", /* c */ "name": "y"}',
        '"command": "x", # c\n "name": "y"}',
        '"command": "x", "": 1, "": 2}',
        '"command": "a\nb"}',
        '"command": "\x01"}',
        '"command": "x", "params": {"a": {"c": 1, "c": 2}, "e": "\\ud83d\\ude00"}}',
        "}",
        '"command": ["x", 1]}',
    ]
    return head + draw.choice(bodies)


TRICKS = (
    *(bomb, cycle, merge, twice, tagged, deep, indented, long_line, directive, stream, blanks, unquoted),
    *(json_trick, json_trick, json_trick),
)


def trick(draw: Random, job_id: str) -> bytes:
    """Return one of these; where the trick allows it the document has the id."""
    text = draw.choice(TRICKS)(draw, f"id: {job_id}\n" if job_id else "")
    kind = draw.random()
    if kind < 0.02:
        return text.encode(draw.choice(["utf-16", "utf-16-le", "utf-32", "utf-7"]), "surrogatepass")
    if kind < 0.04:
        return text.encode("latin-1", "replace")
    return draw.choice([b"", b"", b"", b"", b"\xef\xbb\xbf"]) + text.encode("utf-8", "surrogatepass")


def raw(draw: Random) -> bytes:
    """Return bytes that nobody wrote."""
    match draw.randrange(5):
        case 0:
            return draw.randbytes(draw.choice([1, 5, 50, 500]))
        case 1:
            return bytes(
                draw.choice(b"[]{}:,-?!&*|>'\"%@`#~ \n\tabc01\\\xc3\xa9") for _ in range(draw.randrange(1, 60))
            )
        case 2:
            return draw.choice(JUNK) * draw.randrange(1, 5)
        case 3:
            return b"\0" + str(10 ** draw.randrange(20)).encode() * draw.choice([1, 1, 300])
        case _:
            return "".join(chr(draw.choice([draw.randrange(0xD800), draw.randrange(128)])) for _ in range(30)).encode()
