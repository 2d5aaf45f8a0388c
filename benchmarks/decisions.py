"""What each decision of the design buys, where a result tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.results import Result

Told = Callable[[Mapping[str, Result]], str]


def _batches(r: Mapping[str, Result]) -> str:
    costs = r["budget"]["scripts"].values()
    batch, single = (sum(both[way]["wall_us"] for both in costs) for way in ("batch", "single"))
    return f"all scripts of a job: {batch:,.0f} µs each in batches, {single:,.0f} µs one by one"


def _bundles(r: Mapping[str, Result]) -> str:
    costs = r["budget"]["scripts"]
    names = ("admit", "grant", "begin", "commit", "finish")
    parts = (f"{name} {costs[name]['batch']['server_us']:.0f}" for name in names)
    return f"server, µs a job in batches: {', '.join(parts)}"


def _packet(r: Mapping[str, Result]) -> str:
    found = r["budget"]["packet_us"]
    parts = (f"{int(size):,}: {t['together']:,.0f} µs, apart {t['apart']:,.0f} µs" for size, t in found.items())
    return f"admit, grant and next take in one packet, for a batch of {'; of '.join(parts)}"


def _overlap(r: Mapping[str, Result]) -> str:
    result = r["admission"]
    cpu = result["cpu_us_per_job"]["yaml 1"]
    cores = result["yaml_per_s"] * (cpu["manager"] + cpu["server"]) / 1e6
    return f"one manager and its server keep {cores:.2f} cores busy with YAML"


def _look(r: Mapping[str, Result]) -> str:
    return f"saves a round trip of {r['budget']['limits_us']['ping']:,.0f} µs and more at each wake-up"


def _polls(r: Mapping[str, Result]) -> str:
    p = r["polling"]
    return (
        f"{p['jobs']:,} running jobs: {p['queries_per_interval']:g} queries an interval, fetcher "
        f"{100 * p['fetcher_core']:.1f} % of a core, {p['aof_bytes_per_interval']:,} bytes written"
    )


def _spawn(r: Mapping[str, Result]) -> str:
    limits = r["budget"]["limits_us"]
    return (
        f"two at once: {limits['spawn_two']:,.0f} µs a process, by fork from the benchmark {limits['fork_two']:,.0f} µs"
    )


def _hiredis(r: Mapping[str, Result]) -> str:
    limits = r["budget"]["limits_us"]
    words = f"{limits['reply_hiredis']:,.0f} µs, by redis-py's own parser {limits['reply_python']:,.0f} µs"
    return f"a reply of 250 small jobs: {words}"


def _compact(r: Mapping[str, Result]) -> str:
    bytes_ = r["budget"]["ended_job_bytes"]
    return (
        f"the hash of an ended job: {bytes_['compact']:,.0f} bytes, with the server's defaults {bytes_['default']:,.0f}"
    )


DECISIONS: Sequence[tuple[str, str, Told]] = (
    (
        "private lists and batches of 250",
        "taking is one move for many; a batch costs one write to the disk, and one call",
        _batches,
    ),
    ("index changes bundled", "a script changes each key once for its whole batch, not once a job", _bundles),
    ("scripts that belong together in one packet", "one wake-up of the server and one write to the disk", _packet),
    ("reading ahead", "a manager reads a batch while the server admits the one before", _overlap),
    (
        "the look travels with the blocking move",
        "who is woken up has its entries in hand; a starter's look begins its launches, too",
        _look,
    ),
    ("one poller for each endpoint", "what has not changed costs no query and no write", _polls),
    ("runner and guard, posix_spawn", "a small process that starts jobs without copying its memory's maps", _spawn),
    ("hiredis", "replies are parsed in C", _hiredis),
    ("compact hashes", "a job is one list in memory although its exit record is long", _compact),
)


def rows(results: Mapping[str, Result]) -> list[Sequence[str]]:
    """Return decision, what it does, what was measured of it; of a result that is not there, nothing is told."""
    found: list[Sequence[str]] = []
    for name, words, told in DECISIONS:
        try:
            measured = told(results)
        except KeyError as missing:
            measured = f"*not measured: {missing.args[0]}*"
        found.append((name, words, measured))
    return found
