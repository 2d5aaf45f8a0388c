"""Latencies of Parsl's HighThroughputExecutor, run by the Python of its own environment: FOLDER JOBS RATE COMMAND."""

from __future__ import annotations

import sys
from concurrent.futures import Future

import parsl  # type: ignore[import-not-found]
from latency_loop import Watch, WrongEnd, measure
from parsl.config import Config  # type: ignore[import-not-found]
from parsl.executors import HighThroughputExecutor  # type: ignore[import-not-found]
from parsl.providers import LocalProvider  # type: ignore[import-not-found]

SLOTS = 2


@parsl.bash_app  # type: ignore[untyped-decorator]
def run(command: str) -> str:
    """Run a command in a shell, as Parsl does for every bash_app."""
    return command


class ParslDoor:
    """Closed: `Future.result`, which is 0 or an exception. Open: the future's callback."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._sent: list[Future[int]] = []

    def one(self) -> None:
        """Submit and wait."""
        _check(run(self._command))

    def open(self, watch: Watch) -> None:
        """Keep whom to tell."""
        self._watch = watch

    def send(self, number: int) -> None:
        """Submit with a callback."""
        watch = self._watch
        future = run(self._command)
        future.add_done_callback(lambda _: watch.end(number))
        self._sent.append(future)

    def check(self) -> None:
        """Look at each result."""
        for future in self._sent:
            _check(future)


def _check(future: Future[int]) -> None:
    if (value := future.result(timeout=60)) != 0:
        raise WrongEnd(f"a job returned {value!r}")


def main() -> None:
    """Start interchange and one block of two workers on this machine, and measure."""
    executor = HighThroughputExecutor(
        label="local",
        address="127.0.0.1",
        max_workers_per_node=SLOTS,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = Config(executors=[executor], run_dir=sys.argv[1], strategy="none")
    with parsl.load(config):
        measure(ParslDoor(sys.argv[4]), int(sys.argv[2]), float(sys.argv[3]))


if __name__ == "__main__":
    main()
