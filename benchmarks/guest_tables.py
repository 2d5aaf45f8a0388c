"""Tables of docs/performance.md: guests on a cluster, well-behaved and not."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.markdown import table
from benchmarks.results import Result, section

Results = Mapping[str, Result]


def guest(results: Results) -> str:
    """What each asks, and how late it sees ends."""

    def make(r: Result) -> str:
        rows = []
        for name, it in r["guests"].items():
            rates = ", ".join(f"`{kind}` {rate:g}" for kind, rate in it["queries"].items()) or "none"
            delays = (_seconds(it[f"{key}_delay_s"]) for key in ("median", "p95", "longest"))
            wrong = (it["doubled"], it["lost"], it["false_ends"])
            rows.append([f"{name} {it['version']}", rates, f"{it['queries_per_min']:g}", *delays, *wrong])
        heads = ["", "a minute, by command", "queries a minute", "delay, median s", "p95 s", "longest s"]
        shown = table([*heads, "doubled", "lost", "false ends"], rows, words=2)
        first = next(iter(r["guests"].values()))
        low, high = r["seconds_of_a_job"]
        what = (
            f"{first['jobs']:,} jobs of {low:g} to {high:g} s, {r['slots']} at a time, on Slurm {r['slurm']} "
            f"{'with' if r['books'] else 'without'} accounting."
        )
        ways = "\n".join(
            f"- {name}: {it['how']}; other calls in the whole run: {_calls(it)}." for name, it in r["guests"].items()
        )
        return f"{what}\n\n{shown}\n\n{ways}"

    return section("guest", results, make)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _calls(it: Result) -> str:
    """Everything that is no query in the steady state."""
    counts: dict[str, int] = {}
    for found in (it["calls_before"], it["other_calls"]):
        for kind, count in found.items():
            counts[kind] = counts.get(kind, 0) + count
    shown = {kind: count for kind, count in counts.items() if kind not in ("squeue", "sacct", "scontrol show")}
    return ", ".join(f"{count:,} `{kind}`" for kind, count in sorted(shown.items())) or "none"


def hostile(results: Results) -> str:
    """What becomes of jobs, fault by fault."""

    def make(r: Result) -> str:
        heads = ["", *(f"{name} {version}" for name, version in r["versions"].items())]
        rows = [[fault, *(_verdict(it[name]) for name in r["versions"])] for fault, it in r["faults"].items()]
        return table(heads, rows, words=len(heads))

    return section("hostile_scheduler", results, make)


def _verdict(it: Result) -> str:
    words: str = it["verdict"]
    return words if words == "right" else f"**{words}** of {it.get('jobs', '?')}"
