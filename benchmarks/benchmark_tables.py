"""Tables of docs/performance.md: a section for each of the other benchmarks."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.markdown import image, table
from benchmarks.results import Result, section

Results = Mapping[str, Result]

WATCHED = "hyperqueue"  # its ends are seen by looks through its own client


def local(results: Results) -> str:
    """/bin/true beside the peers."""
    return section("local_throughput", results, lambda r: f"{image('throughput', 'jobs a second')}\n\n{_rates(r)}")


def pipeline(results: Results) -> str:
    """The pipeline without processes beside the peers."""
    return section("pipeline", results, _rates)


def _rates(r: Result) -> str:
    rows = []
    for name, rounds in r["rounds"].items():
        ratio = "" if name == "jobmill" else f"{r[f'ratio_{name}']:.2f} x"
        speeds = (r[f"{name}_per_s"], min(rounds), max(rounds))
        rows.append([f"{name} {r['versions'][name]}", *(f"{value:,.0f}" for value in speeds), ratio])
    return table(["", "jobs/s, median", "worst", "best", "jobmill is"], rows)


def latency(results: Results) -> str:
    """Latency beside the peers."""

    def make(r: Result) -> str:
        keys = ("p50_ms", "p99_ms", "max_ms", "open_p50_ms", "open_p99_ms", "open_max_ms")
        rows = [
            [f"{name} {r['versions'][name]}", *(_milliseconds(r, name, key) for key in keys)] for name in r["rounds"]
        ]
        heads = ["ms", "p50", "p99", "longest", "100/s: p50", "p99", "longest"]
        return f"{image('latency', 'latency beside the peers')}\n\n{table(heads, rows)}"

    return section("latency", results, make)


def _milliseconds(result: Result, name: str, key: str) -> str:
    """HyperQueue's open loop measures our watcher, whose looks hold up its client: no figure of HyperQueue's."""
    return "" if name == WATCHED and key.startswith("open_") else f"{result[f'{name}_{key}']:,.1f}"


def admission(results: Results) -> str:
    """Documents admitted."""

    def make(r: Result) -> str:
        rows = []
        for name, cpu in r["cpu_us_per_job"].items():
            way, count = name.split()
            speed = r["stream_per_s"] if way == "stream" else r["managers" if way == "yaml" else "managers_json"][count]
            cores = speed * (cpu["manager"] + cpu["server"]) / 1e6
            rows.append([way, count, f"{speed:,.0f}", f"{cpu['manager']:.0f}", f"{cpu['server']:.0f}", f"{cores:.1f}"])
        alone = f"libyaml alone {r['libyaml_per_s']:,.0f}/s, `json.loads` alone {r['json_loads_per_s']:,.0f}/s."
        heads = ["", "managers", "jobs/s", "managers, µs a job", "server, µs a job", "cores busy"]
        return f"{table(heads, rows)}\n\nHere, by one process and nothing else: {alone}"

    return section("admission", results, make)


def scale(results: Results) -> str:
    """A record full of jobs."""

    def make(r: Result) -> str:
        servers = {"embedded": r} | ({"Redis 7": r["redis7"]} if "redis7" in r else {})
        keys = {
            "bytes a job above its text": "bytes_per_job",
            "submit: time beside empty": "submit_ratio",
            "submit: server's processor time beside empty": "submit_server_ratio",
            "grant: time beside empty": "grant_ratio",
            "grant: server's processor time beside empty": "grant_server_ratio",
            "`list`, ms in the server": "list_ms",
            "`info`, ms in the server": "info_ms",
            "`watch`, one picture, ms in the server": "watch_ms",
            "restart of the server, s": "load_seconds",
        }
        weight = {"embedded": r["embedded_bytes_per_job"], "Redis 7": r.get("redis7_bytes_per_job")}
        rows = [
            [words, *(f"{weight[n] if key == 'bytes_per_job' else found[key]:,}" for n, found in servers.items())]
            for words, key in keys.items()
        ]
        shown = table([f"{r['waiting']:,} jobs wait", *servers], rows)
        return f"{image('scale', 'memory and processor with many jobs')}\n\n{shown}"

    return section("scale", results, make)


def polling(results: Results) -> str:
    """Many running jobs."""

    def make(r: Result) -> str:
        rows = [
            ["running jobs", f"{r['jobs']:,}"],
            ["interval, s", f"{r['interval_s']:g}"],
            ["queries an interval", f"{r['queries_per_interval']:g}"],
            *([f"{who}, % of a core", f"{100 * r[f'{who}_core']:.2f}"] for who in ("fetcher", "server", "manager")),
            ["bytes written an interval", f"{r['aof_bytes_per_interval']:,}"],
            ["after a kill of the fetcher: s until another has asked", f"{r['takeover_s']:g}"],
        ]
        return table(["", ""], rows)

    return section("polling", results, make)


def footprint(results: Results) -> str:
    """What stands idle."""

    def make(r: Result) -> str:
        keys = {"cpu_percent": ".2f", "wakes_per_s": ".1f", "rss_mb": ".0f", "pss_mb": ".0f"}
        rows = [
            [who if one["name"] == "together" else f"{who}: {one['name']}", *(f"{one[k]:{f}}" for k, f in keys.items())]
            for who, found in r["idle"].items()
            for one in found
            if who == "jobmill" or one["name"] == "together"
        ]
        words = ", ".join(
            f"`{name}` {took['wall_ms']:.0f} ms" for name, took in r["took"].items() if name.startswith("jobmill ")
        )
        heads = ["idle", "CPU, % of a core", "wake-ups/s", "RSS, MiB", "PSS, MiB"]
        return f"{table(heads, rows)}\n\nStart to exit: {words}."

    return section("footprint", results, make)
