"""What a health check is told: by the heartbeat, of this host, this role and this lane."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from conftest import Server

from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record
from jobmill.scripts.jobmill import main
from jobmill.worker.alive import alive

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def record(valkey: Server) -> Record:
    return Record(valkey.url)


def test_nobody_has_registered(record: Record) -> None:
    assert alive(record, "manager", "") == (
        False,
        f"no manager of the plain lane has registered on host {socket.gethostname()}",
    )


def test_it_lives_as_long_as_it_beats(record: Record) -> None:
    member = Membership(record=record, role="starter", lane="far")
    member.register()
    well, words = alive(record, "starter", "far")
    assert well and member.name in words
    assert not alive(record, "starter", "")[0] and not alive(record, "fetcher", "far")[0]
    record.client.zincrby("Processes", -11_000, member.name)
    well, words = alive(record, "starter", "far")
    assert not well and "is silent since 11 s" in words
    member.beat()
    assert alive(record, "starter", "far")[0]
    member.leave([])
    assert "has registered" in alive(record, "starter", "far")[1]


def test_another_hosts_worker_is_not_ours(record: Record) -> None:
    member = Membership(record=record, role="fetcher")
    member.register()
    record.client.hset(f"Process:{member.name}", "host", "elsewhere")
    assert not alive(record, "fetcher", "")[0]


@pytest.mark.parametrize("role", ["manager", "starter", "fetcher"])
def test_the_command_tells_it_by_its_exit_code(
    record: Record, valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("JOBMILL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("JOBMILL_REDIS_URL", valkey.url)
    assert main(["alive", role]) == 1
    Membership(record=record, role=role).register()
    assert main(["alive", role]) == 0
    assert main(["alive", role, "--lane", "other"]) == 1
    monkeypatch.setenv("JOBMILL_REDIS_URL", f"unix://{tmp_path}/none")
    assert main(["alive", role]) == 111
    assert main(["alive", "cook"]) == 2
    assert not (tmp_path / "state").exists()
