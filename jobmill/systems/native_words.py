"""Native words by which a job would not be found again: they replace what bears its token, or make many of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST = 1 << 16  # bytes of a job's native words: no system starts a command with a word of more than 128 KiB
_ENV = "give variables by `env`"
_NAME = "the job's id is its name"
_ARRAY = "submit each job of its own"
# kind -> option -> what to do instead. Of a short one the value may follow at once, a long one may be cut short.
OURS: Mapping[str, Mapping[str, str]] = {
    "slurm": {
        "-J": _NAME,
        "--job-name": _NAME,
        "-a": _ARRAY,
        "--array": _ARRAY,
        "--wrap": "write it as the job's command",
        "-M": "give the system's option cluster",
        "--clusters": "give the system's option cluster",
    },
    "pbspro": {"-v": _ENV, "-J": _ARRAY},
    "torque": {"-v": _ENV, "-t": _ARRAY, "-N": _NAME},
    "gridengine": {"-N": _NAME, "-t": _ARRAY},
    "lsf": {"-J": _NAME, "-Jd": _NAME},
}
WHOLE = ("gridengine", "lsf")  # whose options are words by themselves, never cut short
SHORTEST = len("--arr")


def forbidden(kind: str, words: Sequence[str]) -> str | None:
    """Return why a launch with these words could not be followed, and what to do; None where it can."""
    for word in words:
        for option, instead in OURS.get(kind, {}).items():
            if _means(word, option, whole=kind in WHOLE):
                return f"native word {word[:80]!r}: jobmill finds its jobs by that; leave it out, and {instead}"
    return None


def _means(word: str, option: str, *, whole: bool) -> bool:
    if whole:
        return word == option
    if option.startswith("--"):
        name = word.partition("=")[0]
        return len(name) >= SHORTEST and option.startswith(name)
    return word.startswith(option)
