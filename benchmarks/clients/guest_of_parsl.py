"""A user of Parsl's SlurmProvider with the HighThroughputExecutor: FOLDER (guest_loop)."""

from __future__ import annotations

import shlex
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import parsl  # type: ignore[import-not-found]
from guest_loop import Notes, arguments, follow
from parsl.config import Config  # type: ignore[import-not-found]
from parsl.executors import HighThroughputExecutor  # type: ignore[import-not-found]
from parsl.providers import SlurmProvider  # type: ignore[import-not-found]


@parsl.bash_app  # type: ignore[untyped-decorator]
def run(command: str) -> str:
    """Run a command in a shell, as Parsl does for every bash_app."""
    return command


class ParslDoor:
    """Ends come by the future's callback. The cluster has one job: the block in which the workers are."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def submit(self, number: int, argv: list[str]) -> None:
        """Submit an app with a callback."""

        def told(future: Future[int]) -> None:
            self._notes.end(number, f"failed {future.exception()}" if future.exception() else "done")

        run(shlex.join(argv)).add_done_callback(told)

    def settled(self) -> None:
        """Its apps are in its own queue."""

    def look(self) -> None:
        """It calls back."""


def config(folder: Path, options: dict[str, Any]) -> Config:
    """One block: a node of the cluster, a worker on each of its processors."""
    provider = SlurmProvider(
        partition=options["partition"],
        cores_per_node=options["slots"],
        init_blocks=1,
        min_blocks=1,
        max_blocks=1,
        walltime="01:00:00",
    )
    executor = HighThroughputExecutor(
        label="slurm", address="127.0.0.1", max_workers_per_node=options["slots"], provider=provider
    )
    return Config(executors=[executor], run_dir=str(folder / "work"))


if __name__ == "__main__":
    folder, plan = arguments()
    notes = Notes(folder, len(plan["jobs"]))
    with parsl.load(config(folder, plan["options"])):
        follow(ParslDoor(notes), notes, folder, plan)
