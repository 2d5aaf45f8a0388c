"""The whole pipeline on a host that opens no more sessions on a connection than sshd's own default."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from farm import one_sshd
from pipeline import Pipeline

from jobmill.jobs.spec import JobSpec

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("fetchers", [1, 3])
def test_ten_sessions_are_enough_for_all_workers(tmp_path: Path, fetchers: int) -> None:
    with one_sshd(tmp_path / "sshd", "MaxSessions 10") as host:
        options = host.options(folder=str(tmp_path / "far"), slots=6)
        pipeline = Pipeline(tmp_path / "p", config=json.dumps({"systems": {"lab": {"kind": "ssh", **options}}}))
        pipeline.start()
        more = []
        for _ in range(fetchers - 1):
            more.append(pipeline.workers.pop("fetcher"))
            pipeline.start("fetcher")
        try:
            big = tmp_path / "big"
            big.write_bytes(os.urandom(1 << 20))
            for n in range(30):
                (tmp_path / f"in{n}").write_text(f"{n}\n")
            ids = pipeline.client.submit_many(
                [
                    JobSpec.parse(
                        {
                            "id": f"j{n}",
                            "command": f"cat in{n} > out{n}; cp big copy",
                            "inputs": [str(tmp_path / f"in{n}"), str(big)],
                            "outputs": [f"out{n}", "copy"],
                        }
                    )
                    for n in range(30)
                ]
            )
            rows = pipeline.client.wait(ids, timeout=120)
            assert {row.state for row in rows.values()} == {"done"}, rows
            words = pipeline.log.read_text(errors="replace")
            assert "opens no session besides" not in words
        finally:
            for worker in more:
                worker.kill()
                worker.wait(20)
            pipeline.stop()
