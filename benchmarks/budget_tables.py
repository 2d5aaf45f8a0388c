"""Tables of docs/performance.md: the targets, the budget of one job, and what the decisions buy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks import decisions, floor
from benchmarks.markdown import image, table
from benchmarks.results import Result, section
from benchmarks.targets import TARGETS

Results = Mapping[str, Result]


def targets(results: Results) -> str:
    """What was aimed at."""
    return table(["", "wanted", "measured", ""], (target.row(results) for target in TARGETS), words=4)


def bought(results: Results) -> str:
    """What the decisions buy."""
    return table(["decision", "what it does", "measured"], decisions.rows(results), words=3)


def budget(results: Results) -> str:
    """Who spends what on a job."""

    def make(r: Result) -> str:
        runs = [r["local"], r["fake"]]
        names = list(dict.fromkeys(name for run in runs for name in run["cpu_us"]))
        rows: list[Sequence[object]] = [
            [name, *(f"{run['cpu_us'][name]:,.0f}" if name in run["cpu_us"] else "" for run in runs)] for name in names
        ]
        rows.append(["**together**", *(f"**{sum(run['cpu_us'].values()):,.0f}**" for run in runs)])
        rows.append(["wall time", *(f"{run['wall_us']:,.0f}" for run in runs)])
        rows.append(["cores busy", *(f"{sum(run['cpu_us'].values()) / run['wall_us']:.2f}" for run in runs)])
        return f"{image('budget', 'processor time by process')}\n\n" + table(["µs a job", "local", "fake"], rows)

    return section("budget", results, make)


def scripts(results: Results) -> str:
    """What the record's scripts cost."""

    def make(r: Result) -> str:
        keys = [(way, key) for way in ("batch", "single") for key in ("server_us", "client_us", "wall_us")]
        rows = [[name, *(f"{both[way][key]:,.1f}" for way, key in keys)] for name, both in r["scripts"].items()]
        sums = (sum(both[way][key] for both in r["scripts"].values()) for way, key in keys)
        rows.append(["**together**", *(f"**{value:,.1f}**" for value in sums)])
        heads = ["µs a job", "server, by 250", "caller", "wall", "server, one by one", "caller", "wall"]
        return table(heads, rows)

    return section("budget", results, make)


def machine(results: Results) -> str:
    """What this machine takes for the smallest things."""

    def make(r: Result) -> str:
        rows = [[floor.LABELS[name], f"{value:,.1f}"] for name, value in r["limits_us"].items()]
        return table(["", "µs"], rows)

    return section("budget", results, make)


def journey(results: Results) -> str:
    """One job's way."""

    def make(r: Result) -> str:
        stamps, last, rows = r["journey"]["stamps_ms"], 0.0, []
        for name, value in stamps.items():
            rows.append([name, f"{value:.2f}", "" if name == "acknowledged" else f"{value - last:.2f}"])
            last = last if name == "acknowledged" else value
        rows.append(["seen, without MONITOR", f"{r['journey']['unwatched_ms']:.2f}", ""])
        shown = table(["stamp", "ms after the submission", "ms since the one before"], rows)
        return f"{image('journey', 'one job on an idle pipeline')}\n\n{shown}"

    return section("budget", results, make)
