"""What was aimed at, and whether it was reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.results import Result, command, short


@dataclass(frozen=True, kw_only=True)
class Target:
    """One figure of one benchmark and its bound."""

    what: str
    benchmark: str
    value: Callable[[Result], float]
    bound: float
    unit: str
    least: bool = False  # the bound is the least that is wanted, not the most

    def row(self, results: Mapping[str, Result]) -> Sequence[str]:
        """Return its row of the table."""
        wanted = f"{'≥' if self.least else '≤'} {self.bound:,g} {self.unit}"
        if self.benchmark not in results:
            return [self.what, wanted, "", f"not measured (`{command(self.benchmark)}`)"]
        result = results[self.benchmark]
        try:
            found = self.value(result)
        except KeyError as error:  # a peer or a server that was not there
            return [self.what, wanted, "", f"not measured: no {error.args[0]}"]
        met = found >= self.bound if self.least else found <= self.bound
        shown = f"{found:,.0f}" if found >= 1000 else f"{found:.3g}"
        verdict = ("met" if met else "**not met**") + (", trial run" if short(self.benchmark, result) else "")
        return [self.what, wanted, f"{shown} {self.unit}", verdict]


def _of(benchmark: str, key: str, what: str, bound: float, unit: str, *, least: bool = False, by: float = 1) -> Target:
    return Target(
        what=what, benchmark=benchmark, value=lambda result: result[key] * by, bound=bound, unit=unit, least=least
    )


def _guest(key: str, what: str, bound: float, unit: str) -> Target:
    return Target(
        what=what, benchmark="guest", value=lambda result: result["guests"]["jobmill"][key], bound=bound, unit=unit
    )


TARGETS = (
    _of("local_throughput", "ratio_xargs", "`/bin/true` beside bare `xargs -P2`", 0.5, "x", least=True),
    _of("local_throughput", "ratio_hyperqueue", "`/bin/true` beside HyperQueue", 1.5, "x", least=True),
    _of("latency", "jobmill_p50_ms", "latency of one job, p50", 5, "ms"),
    _of("latency", "jobmill_p99_ms", "latency of one job, p99", 20, "ms"),
    _of("pipeline", "jobmill_per_s", "pipeline without processes", 5000, "jobs/s", least=True),
    _of("admission", "yaml_per_s", "admission of YAML, one manager", 8000, "jobs/s", least=True),
    _of("admission", "json_per_s", "admission of JSON, one manager", 30000, "jobs/s", least=True),
    _of("scale", "embedded_bytes_per_job", "a waiting job above its text, embedded server", 300, "bytes"),
    _of("scale", "redis7_bytes_per_job", "a waiting job above its text, Redis 7", 400, "bytes"),
    _of("scale", "submit_ratio", "submit on the full record, beside the empty one", 1.2, "x"),
    _of("scale", "grant_ratio", "grant on the full record, beside the empty one", 1.2, "x"),
    _of("scale", "list_ms", "`list` on the full record, in the server", 100, "ms"),
    _of("scale", "info_ms", "`info` on the full record, in the server", 100, "ms"),
    _of("polling", "fetcher_core", "fetcher that watches running jobs", 5, "% of a core", by=100),
    _of("polling", "queries_per_interval", "queries of the cluster an interval", 1, "queries"),
    _guest("queries_per_min", "1,000 jobs on Slurm: queries in the steady state", 2, "a minute"),
    _guest("median_delay_s", "1,000 jobs on Slurm: an end is seen, median", 5, "s"),
    _of("footprint", "idle_cpu_percent", "idle pipeline, all processes: processor", 1, "% of a core"),
    _of("footprint", "pss_mb", "idle pipeline, all processes: memory (PSS)", 150, "MiB"),
    _of("footprint", "info_ms", "`jobmill info`, start to exit", 150, "ms"),
)
