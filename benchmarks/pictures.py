"""The pictures of docs/performance.md, each made from one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.benchmark_tables import WATCHED
from benchmarks.charts import Panel, Part, Row, bar, picture
from benchmarks.journey import STAMPS
from benchmarks.results import Result

STAGES = {  # stamp -> what happens before it
    "pushed": "client: spec, push",
    "granted": "manager: read, admit, grant",
    "begun": "starter: begin",
    "started": "runner: folder, marker, exec",
    "end pushed": "its end, written and pushed",
    "finished": "fetcher: judge, finish",
    "seen": "client: woken up, read",
}


def budget(result: Result) -> str:
    """Who spends what on a job, on `local` and on `fake`."""
    names = list(dict.fromkeys(name for run in ("local", "fake") for name in result[run]["cpu_us"]))
    colours = {name: number for number, name in enumerate(names)}
    rows = []
    for run in ("local", "fake"):
        used = {name: value for name, value in result[run]["cpu_us"].items() if value >= 0.5}
        parts = [Part(label=name, value=value, colour=colours[name]) for name, value in used.items()]
        rows.append(Row(label=run, parts=parts, text=f"{sum(used.values()):,.0f} µs"))
    panels = [Panel(title="Processor time of one job in a full pipeline, by process", rows=rows, legend=True)]
    costs = [(name, both["batch"]["server_us"]) for name, both in result["scripts"].items()]
    rows = [bar(name, value, f"{value:.1f} µs", colours["server"]) for name, value in costs]
    panels.append(
        Panel(title="The server's processor time for each script of the record, µs a job in batches of 250", rows=rows)
    )
    return picture("The budget of one job", panels)


def journey(result: Result) -> str:
    """The stages of one job on an idle pipeline, as spans of time."""
    stamps, last, rows = result["journey"]["stamps_ms"], 0.0, []
    for number, stamp in enumerate(name for name in STAMPS if name in STAGES):
        took = stamps[stamp] - last
        part = Part(label=STAGES[stamp], value=took, start=last, colour=number)
        rows.append(Row(label=STAGES[stamp], parts=[part], text=f"{took:.2f} ms"))
        last = stamps[stamp]
    return picture(
        "One job's way",
        [Panel(title="One job on an idle pipeline: each stage with its wait for the disk, ms", rows=rows)],
    )


def throughput(local: Result, others: Result | None = None) -> str:
    """Jobs a second beside the peers; ``others``: of the pipeline without processes."""
    panels = [Panel(title="/bin/true on two slots: jobs a second", rows=_rates(local))]
    if others is not None:
        panels.append(Panel(title="jobs that end at once, no processes: jobs a second", rows=_rates(others)))
    return picture("Jobs a second beside the peers", panels)


def _rates(result: Result) -> list[Row]:
    found = {name: result[f"{name}_per_s"] for name in result["rounds"]}
    return [bar(name, rate, f"{rate:,.0f}", _own(name)) for name, rate in found.items()]


def latency(result: Result) -> str:
    """p50 and p99 beside the peers."""
    panels = []
    for title, key in (("one after the other", ""), ("100 a second arrive", "open_")):
        rows = []
        for name in result["rounds"]:
            if key and name == WATCHED:
                continue
            half, most = result[f"{name}_{key}p50_ms"], result[f"{name}_{key}p99_ms"]
            parts = [
                Part(label="p50", value=half, colour=_own(name)),
                Part(label="up to p99", value=max(0.0, most - half), colour=7),
            ]
            rows.append(Row(label=name, parts=parts, text=f"{half:.1f} / {most:.1f}"))
        panels.append(Panel(title=f"Latency of one job, {title}: p50 / p99 (grey), ms", rows=rows))
    return picture("Latency beside the peers", panels)


def scale(result: Result) -> str:
    """What a waiting job weighs, and what the server spends on one more, with all of them waiting."""
    servers = {"embedded": result} | ({"Redis 7": result["redis7"]} if "redis7" in result else {})
    kinds = {kind: number for number, kind in enumerate(result["bytes_by_key"])}
    rows = []
    for name, found in servers.items():
        parts = [
            Part(label=kind, value=value, colour=kinds.get(kind, 9))
            for kind, value in found["bytes_by_key"].items()
            if not kind.startswith("(")  # it is in part among the others
        ]
        rows.append(Row(label=name, parts=parts, text=f"{sum(part.value for part in parts):,.0f}"))
    panels = [Panel(title=f"{result['waiting']:,} jobs wait: bytes a job, its text included", rows=rows, legend=True)]
    rows = []
    for name, found in servers.items():
        for what in ("submit", "grant"):
            for when, colour in (("empty", 7), ("full", 0)):
                value = found[when][what]["server_us_per_job"]
                rows.append(bar(f"{name}: {what}, {when}", value, f"{value:.1f}", colour))
    panels.append(Panel(title="the server's processor time for one job, µs: record empty, and full", rows=rows))
    return picture("A record full of jobs", panels)


def _own(name: str) -> int:
    return 1 if name == "jobmill" else 0


Drawing = tuple[str, Callable[..., str]]
PICTURES: Mapping[str, Drawing] = {  # name -> the result that it cannot be without, how it is drawn
    "budget": ("budget", budget),
    "journey": ("budget", journey),
    "throughput": ("local_throughput", throughput),
    "latency": ("latency", latency),
    "scale": ("scale", scale),
}


def draw(results: Mapping[str, Result]) -> dict[str, str]:
    """Return the SVG text of each picture whose result is there."""
    found = {}
    for name, (needed, make) in PICTURES.items():
        if needed in results:
            more = [results.get("pipeline")] if name == "throughput" else []
            found[name] = make(results[needed], *more)
    return found
