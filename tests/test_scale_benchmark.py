"""The benchmark of a full record: its figures are there, and its weights are the server's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import Server
from driver import Driver

from benchmarks import memory
from jobmill.ledger.record import Record

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "scale.py"


def test_last_line_holds_bytes_ratios_and_times(tmp_path: Path) -> None:
    words = ["--jobs", "2000", "--rounds", "1", "--servers", "embedded", "--spool", str(tmp_path), "--json"]
    ended = subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout)
    assert line["waiting"] >= 2000
    assert 100 < line["embedded_bytes_per_job"] < 800
    assert {"Job", "Waiting"} <= line["bytes_by_key"].keys()
    for name in ("submit_ratio", "grant_ratio", "submit_server_ratio", "grant_server_ratio", "load_seconds"):
        assert line[name] > 0
    for name in ("list", "list_waiting", "list_user", "info", "watch", "explain"):
        assert 0 < line[f"{name}_ms"] < line[f"{name}_wall_ms"]
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_unknown_server_is_named() -> None:
    words = [sys.executable, PROGRAM, "--servers", "embedded,redis5"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "the servers of embedded, redis7" in ended.stderr


def test_weights_by_kind_count_all_keys(valkey: Server) -> None:
    record = Record(valkey.url)
    driver = Driver(record, limit=0)
    driver.admit(*[f"j{n:03}" for n in range(200)])
    kinds = {kind.name: kind for kind in memory.by_kind(record)}
    assert kinds["Job"].keys == 200
    assert kinds["Waiting"].keys == 2
    assert 200 * 50 < kinds["Job"].bytes < 200 * 1000
    assert sum(kind.keys for kind in kinds.values()) == int(record.call("DBSIZE"))
    assert memory.main_table(record) > 0
    record.close()
