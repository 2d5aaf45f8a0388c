"""Job documents as their users mean them, over every key, and the same with a slip or a lie in them."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import yaml

IDS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["ann", "bob", "align", "x", "Größe", "日本", "a-1", "0", "true", "null", "1e5", "~", "=", "🚀", "a.b", "i18n"]
TEXTS = [
    *WORDS,
    "echo hello",
    "a: b # c",
    "two\nlines\n",
    " ends with blanks  ",
    "tab\there",
    "quote ' and \"",
    "\u2028\u2029\u0085",
    "\u202egnp.exe",
    "\x1b[2J\x07",
    "{a: b}",
    "- x",
    "--- x",
    "...",
    "%YAML 1.1",
    "\\u0000",
    "$(reboot)",
    "x" * 300,
    "é" * 5000,
]
DURATIONS = [90, 0.5, "90s", "1h 30m", "01:30:00", "90:00", "1-12:00:00", "2d", "250ms", "1w", 3153600000]
MEMORIES = [512, "512M", "4G", "1.5T", "4GiB", "1b", 0.25, "1024P"]
MOMENTS = ["2026-12-01T08:00", "2001-12-01 08:00 Z", "2030-01-01T00:00:00.123456+05:30", 1_800_000_000, "2020-02-02"]
SLIPS = [  # values that are nearly, or not at all, what a key takes
    *[
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        -0.0,
        10**9,
        2**31,
        2**53,
        2**63,
        2**64,
        -(2**63) - 1,
        10**30,
        10**398,
        10**4000,
    ],
    *[1e308, 5e-324, 1e16, math.nan, math.inf, -math.inf],
    *["", " ", "0", "-1", "1e5", "0x10", "0755", "1_000", "1:30", "nan", ".inf", "yes", "8 X", "4 G B", "1h1h", "m 1"],
    *[
        "\0",
        "\x7f",
        "\ud800",
        "\udfff",
        "\ufeff",
        "\ufffe",
        "\u202e",
        "a\u0300",
        "１２",
        "٣",
        "²",
        "½",
        "𝟘",
        "\U0010ffff",
    ],
    *["/", "..", "../../etc", "~", "~root", "/proc/self/mem", "a/../b", "-rf", "--help", "$HOME", "`id`", "a b", "a:b"],
    *["all", "last", "x" * 65, "x" * 129, "x" * 201, "1" + " " * 3000 + "x", "9" * 5000, "1." + "9" * 300, "a" * 20000],
    *[[], {}, [[]], [None], [1, 2], ["a", 5], {"a": 1}, {"": ""}, [{}], {"max": {}}, [["x"] * 70], {"a": {"b": [{}]}}],
    *[["a"] * 500, {f"k{n}": n for n in range(200)}],
]
OTHER_KEYS = [
    *["comand", "cmd", "Command", "COMMAND", "command ", "cpu", "mem ", "retires", "dependson", "depends-on", "Id"],
    *["notify", "array", "stages", "jobs", "qos", "max_pending", "modules", "extra", "on"],
    *[
        "<<",
        "=",
        "null",
        "true",
        "1",
        "1.0",
        "",
        " ",
        "?",
        "-",
        "model_config",
        "__class__",
        "parse",
        "class",
        "é" * 70,
    ],
    *["cwd", "directory", "class_type", "cores", "ncpus", "time", "time_limit", "partition", "native_specification"],
]


def some_id(draw: Random) -> str:
    """Return an id that nobody else has."""
    return "".join(draw.choice(IDS) for _ in range(12))


def _words(draw: Random) -> Any:
    return draw.choice([draw.choice(WORDS[:7]), [draw.choice(WORDS[:7]) for _ in range(draw.randrange(4))]])


def _command(draw: Random) -> Any:
    return draw.choice(["true", "exit 3", "echo hi | cat\n", ["true"], ["echo", "", "a b", "ü"], "#", "é" * 200])


def _step(draw: Random, number: int) -> dict[str, Any]:
    step: dict[str, Any] = draw.choice([{"command": "true"}, {"command": ["true"]}, {"function": "os.path:join"}])
    step = dict(step)
    if draw.random() < 0.6:
        step["name"] = f"s{number}"
    if draw.random() < 0.3:
        step["inputs"] = params(draw)
    if draw.random() < 0.3:
        step["outputs"] = [f"o{number}", "n"]
    if draw.random() < 0.2:
        step["log"] = f"l{number}.txt"
    return step


def params(draw: Random, depth: int = 0) -> dict[str, Any]:
    """Return a mapping of plain JSON values."""
    return {draw.choice(TEXTS): _plain(draw, depth) for _ in range(draw.randrange(4))}


def _plain(draw: Random, depth: int) -> Any:
    if depth < 4 and draw.random() < 0.3:
        return (
            [_plain(draw, depth + 1) for _ in range(draw.randrange(4))]
            if draw.random() < 0.5
            else params(draw, depth + 1)
        )
    return draw.choice([None, True, 0, -7, 10**25, 1.5, 1e22, -0.0, 1e-7, *TEXTS[:12]])


def _resources(draw: Random) -> dict[str, Any]:
    every = {"cpus": 1, "memory": draw.choice(MEMORIES[:3]), "walltime": draw.choice(DURATIONS), "gpus": 0, "nodes": 2}
    return {key: every[key] for key in draw.sample(sorted(every), draw.randrange(1, 4))}


def _retry(draw: Random) -> Any:
    whole = {"max": draw.randrange(3), "delay": draw.choice(["0s", 1, "1h"]), "backoff": draw.choice([1, 2.5, 100])}
    on = draw.choice(["any", ["failed"], ["timeout", "lost"], []])
    return draw.choice([0, 3, {}, whole, {**whole, "on": on}])


MAKE = {
    "name": lambda d: d.choice(WORDS),
    "ClassType": lambda d: "Local",
    "system": lambda d: d.choice(["fake", "fake", "fake", "local"]),
    "workdir": lambda d: d.choice(["/tmp", "sub/dir", "~", "/no/such", "a b", "/" + "x" * 200, "~nosuch/x"]),
    "env": lambda d: {d.choice(["A", "B_2", "LD_PRELOAD", "PATH", "_"]): d.choice([1, 1.10, True, None, *TEXTS[:10]])},
    "inherit_env": lambda d: d.choice([True, False, "HOME", ["PATH", "NOT_THERE"], []]),
    "stdin": lambda d: d.choice(["/dev/null", "in.txt"]),
    "stdout": lambda d: d.choice(["out.txt", "logs/out"]),
    "stderr": lambda d: d.choice(["err.txt", "out.txt"]),
    "resources": _resources,
    "queue": lambda d: d.choice(WORDS[:7]),
    "account": lambda d: d.choice(WORDS[:7]),
    "native": lambda d: d.choice(TEXTS[:8]),
    "user": lambda d: d.choice(["ann", "bob", "Größe", "a=5", "u" * 128]),
    "project": lambda d: d.choice(WORDS[:7]),
    "tags": _words,
    "priority": lambda d: d.randrange(-1000, 1001),
    "inputs": lambda d: d.choice(
        [[], "/etc/hostname", {"from": "~/x", "to": "a/b"}, ["/no/such", {"from": "rel/x"}], ["/etc/fstab", "/b/fstab"]]
    ),
    "container": lambda d: d.choice(["a/b:1", {}, {"image": "x", "volumes": ["/d", "v:/x:ro"]}, {"network": "none"}]),
    "outputs": lambda d: d.choice(["*.sam", [], {"glob": "a/*"}, [{"glob": "x", "required": False}, "**/*.[ch]"]]),
    "retry": _retry,
    "params": params,
    "hold": lambda d: d.random() < 0.3,
    "start_after": lambda d: d.choice(MOMENTS),
}


def valid(draw: Random, job_id: str, others: list[str]) -> dict[str, Any]:
    """Return a document that is a job, of any of the supported keys; ``others``: ids that it may wait for."""
    job: dict[str, Any] = {"id": job_id}
    if draw.random() < 0.8:
        job["command"] = _command(draw)
    else:
        job["steps"] = [_step(draw, number) for number in range(draw.randrange(1, 4))]
    for key in draw.sample(sorted(MAKE), draw.choice([0, 1, 2, 3, 5, 10])):
        job[key] = MAKE[key](draw)
    if others and draw.random() < 0.1:
        job["depends_on"] = draw.choice([draw.choice(others), [draw.choice(others), draw.choice(others)]])
        if draw.random() < 0.7:
            job["after"] = draw.choice(["ok", "any", "failed"])
    if draw.random() < 0.3:
        items = list(job.items())
        draw.shuffle(items)
        job = dict(items)
    return job


def nearly(draw: Random, job_id: str, others: list[str]) -> dict[str, Any]:
    """Return a document with one or a few things wrong, or merely odd."""
    job = valid(draw, job_id, others)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        key = draw.choice([*job, *MAKE, "command", "depends_on", "steps", "after", *("cpus", "memory", "walltime")])
        match draw.randrange(6):
            case 0 | 1:
                job[key] = draw.choice(SLIPS)
            case 2:
                job[draw.choice(OTHER_KEYS)] = draw.choice([1, "x", draw.choice(SLIPS)])
            case 3:
                job = {(draw.choice(OTHER_KEYS) if word == key else word): value for word, value in job.items()}
            case 4:
                _deeper(draw, job)
            case 5:
                job.pop(key, None)
    return job


def _deeper(draw: Random, job: dict[str, Any]) -> None:
    """Put a slip somewhere inside of a mapping or list."""
    inner = [value for value in job.values() if isinstance(value, (dict, list)) and value]
    if not inner:
        job[draw.choice(["retry", "resources", "steps", "outputs", "env"])] = draw.choice([{"max": 0}, [{"name": []}]])
        return
    value = draw.choice(inner)
    if isinstance(value, dict):
        key = draw.choice([*value, "max", "name", "log", "glob", "escalate", "mem"])
        job.update({k: {**v, key: draw.choice(SLIPS)} for k, v in job.items() if v is value and isinstance(v, dict)})
    else:
        place = draw.randrange(len(value))
        fresh = [*value[:place], draw.choice([*SLIPS, {"command": "x", "log": ["y"]}, {"name": 5}]), *value[place:]]
        job.update({k: fresh for k, v in job.items() if v is value})


def written(draw: Random, job: dict[str, Any]) -> bytes:
    """Return a document as somebody's program or hand would write it; what JSON or YAML cannot hold is written so."""
    if draw.random() < 0.5:
        text = json.dumps(job, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, None, 1]))
    else:
        style = {"default_flow_style": draw.choice([False, False, True, None]), "width": draw.choice([20, 80, 10**6])}
        text = yaml.dump(job, Dumper=_Plain, allow_unicode=draw.random() < 0.7, sort_keys=False, **style)
    return text.encode("utf-8", "surrogatepass")


class _Plain(yaml.SafeDumper):
    """Writes aliases out, mostly; and text that needs no quotes by its own lights without them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
