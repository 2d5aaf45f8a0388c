"""Documents to start from (examples, the manual's, nasty ones) and a mutator that keeps them nearly readable."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from random import Random

from tests.fuzz.tricks import JUNK

ROOT = Path(__file__).parents[2]
NASTY = (
    b"steps: [{command: a, log: [x]}]",
    b"command: a\nid: x\ndepends_on: 5",
    b"command: a\nid: [x]\ndepends_on: {a: b}",
    b"command: a\nmemory: 1" + b"0" * 398,
    b"command: a\nstart_after: '1" + b" " * 3000 + b"x'",
    b'{"command": "a", "params": {"[[[[": "\\"\\"\\""}}',
    b"a: 1\n---\nb: 2\n...\n%TAG !y! tag:yaml.org,2002:\n---\nc: !y!str 3\n",
    b"x: &x {command: a}\n<<: [*x, {name: b}]\n",
    b"command: |+\n  keep\n\n---\ncommand: >-\n  fold\n  ed\n",
    b"retry: {max: 1, on: [any], backoff: 1e2, delay: 1h 30m}\ncommand: [a, 'b', \"c\"]\n",
    b"command: x\noutputs: [{glob: '*', required: no}]\n",
)
TOKENS = [
    *[
        b"\n",
        b": ",
        b"- ",
        b"? ",
        b"---\n",
        b"...\n",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!str ",
        b"!!python/name:os ",
        b"|\n",
        b">-\n",
    ],
    *[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b'"',
        b"'",
        b"#",
        b"%YAML 1.1\n",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"\t",
        b"\r",
        b"\xc2\x85",
    ],
    *[
        b"null",
        b"true",
        b"NaN",
        b".inf",
        b"-1",
        b"1e999",
        b"0755",
        b"9" * 40,
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        b"\xf0\x9f\x9a\x80",
    ],
    *[
        b"command: x\n",
        b"id: x\n",
        b"steps: [{command: x}]\n",
        b"depends_on: [x]\n",
        b"retry: 3\n",
        b"params: {a: b}\n",
    ],
    *JUNK,
]


@cache
def corpus() -> tuple[bytes, ...]:
    """Return every example, every job in the manual, and the nasty ones."""
    examples = [file.read_bytes() for file in sorted((ROOT / "examples").glob("*.yaml"))]
    manual = (ROOT / "docs" / "jobs.md").read_bytes()
    return (*examples, *re.findall(rb"```yaml job\n(.*?)```", manual, re.DOTALL), *NASTY)


def mutated(draw: Random, data: bytes, times: int = 0) -> bytes:
    """Return ``data`` with a few things cut, doubled, moved, flipped or put in."""
    for _ in range(times or draw.choice([1, 1, 2, 4, 9])):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.choice([1, 1, 4, 16, 64]))
        match draw.randrange(8):
            case 0:
                data = data[:at] + data[to:]
            case 1:
                data = data[:at] + data[at:to] * draw.choice([2, 2, 3, 70]) + data[to:]
            case 2:
                data = data[:at] + draw.choice(TOKENS) + data[at:]
            case 3:
                data = data[:at] + draw.choice(TOKENS) + data[to:]
            case 4:
                data = data[:at] + draw.randbytes(1) + data[at + 1 :]
            case 5:
                lines = data.splitlines(keepends=True)
                draw.shuffle(lines)
                data = b"".join(lines)
            case 6:
                lines = data.splitlines(keepends=True) or [b""]
                data = data[:at] + draw.choice(lines) + data[at:]
            case 7:
                data = data[:at] + draw.choice(corpus())[:200] + data[at:]
        data = data[: 1 << 16]
    return data
