"""What is started stays small: commands and workers import only what they use; the benchmark measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "footprint.py"
CONNECT = "from jobmill.ledger.connection import connect; client = connect('redis://127.0.0.1:1'); "


def imported(code: str) -> set[str]:
    """Return the modules that are loaded in a new process after this code, those put off left out."""
    tell = (
        "import sys, types; "
        "print(*(n for n, m in sys.modules.items() if type(m).__name__ != '_PutOff'), file=sys.__stdout__)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, timeout=60, check=True
    )
    return set(ended.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import jobmill", {"json", "typing", "jobmill.client"}),
        ("import jobmill.scripts.jobmill", {"redis", "yaml", "pydantic", "rich", "jobmill.client", "asyncio"}),
        (
            "from jobmill.scripts.jobmill import main; main(['--help'])",
            {"redis", "yaml", "pydantic", "rich", "jobmill.config"},
        ),
        (
            "from jobmill.scripts.jobmill import main; main(['info'])",
            {"redis.asyncio.client", "redis.cluster", "redis.sentinel", "yaml", "pydantic", "rich", "email", "shutil"},
        ),
        ("import jobmill.daemon.foreground", {"redis", "yaml", "pydantic", "rich", "asyncio", "ssl"}),
        ("import jobmill.scripts.fetcher", {"pydantic", "rich", "click"}),
        ("import jobmill.scripts.starter", {"rich", "click"}),
        ("import jobmill.scripts.manager", {"rich", "click"}),
    ],
)
def test_nothing_is_imported_in_vain(code: str, never: set[str]) -> None:
    assert not never & imported(code)


def test_client_of_redis_comes_alone() -> None:
    loaded = imported(CONNECT)
    assert "redis.client" in loaded
    assert not {"redis", "redis.asyncio", "redis.cluster", "importlib.metadata", "email"} & loaded


@pytest.mark.parametrize(
    "code",
    [
        "import redis; assert isinstance(client, redis.Redis) and redis.__version__ and redis.asyncio.Redis",
        "from redis import RedisCluster; from redis.cluster import RedisCluster as Same; assert RedisCluster is Same",
        "from redis.asyncio import Redis; import redis.asyncio.client as c; assert Redis is c.Redis",
        "import redis.asyncio; assert redis.asyncio.sentinel.Sentinel",
        "from redis import *; assert Sentinel and RedisCluster",
        "import redis; assert all(hasattr(redis, name) for name in redis.__all__)",
        "import importlib.metadata; assert importlib.metadata.version('redis')",
        "from importlib.metadata import entry_points; assert entry_points(group='jobmill.systems')",
        "import redis\ntry: redis.nothing\nexcept AttributeError as error: assert 'nothing' in str(error)",
        "import threading, redis\nfound = []\n"
        "some = [threading.Thread(target=lambda: found.append(redis.RedisCluster)) for _ in range(8)]\n"
        "[t.start() for t in some]; [t.join() for t in some]; assert len(found) == 8 and len(set(found)) == 1",
    ],
)
def test_whoever_else_uses_the_library_has_all_of_it(code: str) -> None:
    imported(f"{CONNECT}\n{code}")


@pytest.mark.parametrize("change", ["'redis.nowhere'", "'redis.asyncio.client'"])
def test_library_that_is_built_in_another_way_is_imported_as_it_wants(change: str) -> None:
    """Put off what may not be, as if a release of the library needed it at its start: the plain import serves."""
    loaded = imported(
        "import jobmill.ledger.redis_library as library\n"
        f"library.PUT_OFF = (*library.PUT_OFF, {change})\n{CONNECT}\nimport redis; redis.RedisCluster"
    )
    assert "redis.client" in loaded


def test_failed_start_is_followed_by_the_plain_import() -> None:
    loaded = imported(
        "import importlib, jobmill.ledger.redis_library as library\nreal, asked = importlib.import_module, []\n"
        "def once(name):\n    asked.append(name)\n    if len(asked) == 2: raise ImportError('a cycle')\n"
        f"    return real(name)\nimportlib.import_module = once\n{CONNECT}\n"
        "assert asked == ['redis.client', 'redis.retry', 'redis.client'], asked\n"
        "import redis; assert type(client) is redis.Redis"
    )
    assert {"redis", "redis.asyncio", "redis.cluster"} <= loaded


def test_last_line_holds_the_numbers() -> None:
    words = [sys.executable, PROGRAM, "--here", "--seconds", "2", "--starts", "1", "--peers", "", "--json"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout)
    names = [one["name"] for one in line["idle"]["jobmill"]]
    assert names[0] == "supervisor" and names[-1] == "together"
    assert sorted(names[1:-1]) == ["fetcher", "guard", "manager", "runner", "server", "starter"]
    assert 20 < line["pss_mb"] < line["rss_mb"] < 1000
    assert line["idle_cpu_percent"] < 50
    assert 0 < line["took"]["python -c pass"]["wall_ms"] < line["info_ms"]
    assert line["install_mb"] is None


def test_unknown_peer_is_named() -> None:
    words = [sys.executable, PROGRAM, "--peers", "rq,nobody"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "unknown peer 'nobody'; known: rq, celery, dramatiq" in ended.stderr
