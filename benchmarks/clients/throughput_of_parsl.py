"""Throughput of Parsl's HighThroughputExecutor, run by the Python of its own environment: FOLDER JOBS COMMAND."""

from __future__ import annotations

import json
import sys
import time

import parsl  # type: ignore[import-not-found]
from parsl.config import Config  # type: ignore[import-not-found]
from parsl.executors import HighThroughputExecutor  # type: ignore[import-not-found]
from parsl.providers import LocalProvider  # type: ignore[import-not-found]

SLOTS = 2


@parsl.bash_app  # type: ignore[untyped-decorator]
def run(command: str) -> str:
    """Run a command in a shell, as Parsl does for every bash_app."""
    return command


def main() -> None:
    """Start interchange and one block of two workers on this machine, and measure once they have answered."""
    executor = HighThroughputExecutor(
        label="local",
        address="127.0.0.1",
        max_workers_per_node=SLOTS,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = Config(executors=[executor], run_dir=sys.argv[1], strategy="none")
    with parsl.load(config):
        for _ in range(SLOTS):
            run(sys.argv[3]).result(timeout=60)
        begin = time.perf_counter()
        sent = [run(sys.argv[3]) for _ in range(int(sys.argv[2]))]
        ended = [future.result(timeout=600) for future in sent]
        seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "finished": ended.count(0), "version": parsl.__version__}))


if __name__ == "__main__":
    main()
