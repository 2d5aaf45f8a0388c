"""The names of the keys (design, section 5); the scripts derive the same names from the prefix."""

from __future__ import annotations

from dataclasses import dataclass


def lane_suffix(lane: str) -> str:
    """Return what a lane adds to the names of its queues: nothing for the empty lane."""
    return f":{lane}" if lane else ""


def launch_name(job_id: str, arrival: int) -> str:
    """Return how the scripts are told of a launch's job: by its id and, where it is known (not 0), its arrival.

    So what was launched for a job whose record was pruned is void, also when its id lives anew.
    """
    return f"{job_id}@{arrival}" if arrival else job_id


@dataclass(frozen=True)
class Keys:
    """All keys of one pipeline; ``prefix`` is empty by default, ``{jm}:`` for Redis Cluster."""

    prefix: str = ""

    def __call__(self, name: str) -> str:
        """Return the key of this name."""
        return self.prefix + name

    def job(self, job_id: str) -> str:
        """Return the hash of a job."""
        return f"{self.prefix}Job:{job_id}"

    def spec(self, job_id: str) -> str:
        """Return the string that holds the canonical text of a job's spec."""
        return f"{self.prefix}Spec:{job_id}"

    def runs(self, job_id: str) -> str:
        """Return the list of a job's earlier runs."""
        return f"{self.prefix}Job:{job_id}:runs"

    def process(self, name: str) -> str:
        """Return the hash of a worker process."""
        return f"{self.prefix}Process:{name}"

    def taken(self, queue: str, process: str) -> str:
        """Return the private list of a process for a queue."""
        return f"{self.prefix}{queue}:taken:{process}"

    def ended(self, state: str) -> str:
        """Return the index of jobs in an end state (or held), by time."""
        return f"{self.prefix}Jobs:{state}"
