"""A user of jobmill's Python client: FOLDER (guest_loop). ``options``: ``{"url"}``."""

from __future__ import annotations

import threading
import time

from guest_loop import Notes, arguments, follow

from jobmill.client import Client
from jobmill.jobs.states import ENDED, State
from jobmill.ledger import listing
from jobmill.ledger.following import Following
from jobmill.ledger.listing import JobRow

PATIENCE = 600.0  # seconds until all have to be in line


class JobmillDoor:
    """Ends come by the stream of changes, as for `jobmill wait`."""

    def __init__(self, url: str, notes: Notes, jobs: int) -> None:
        self._client, self._observer = Client(url), Client(url)
        self._notes, self._jobs = notes, jobs
        self._numbers = {f"job-{number}": number for number in range(jobs)}
        self._following = Following(self._observer.record)
        self._following.add(list(self._numbers))
        threading.Thread(target=self._follow, daemon=True).start()

    def submit(self, number: int, argv: list[str]) -> None:
        """Push a job."""
        self._client.submit({"command": argv}, id=f"job-{number}")

    def _follow(self) -> None:
        record = self._observer.record
        while self._following.left:
            changed = self._following.step(1.0)
            when = time.monotonic_ns()
            ended = [job_id for job_id in changed if job_id not in self._following.left]
            for row in listing.jobs(record, ended) if ended else ():
                self._notes.end(self._numbers[row.id], _state(row), when)

    def settled(self) -> None:
        """Wait until the starter has submitted all of them."""
        record, until = self._client.record, time.monotonic() + PATIENCE
        while time.monotonic() < until:
            names = (record.keys("Running_Queue"), *(record.keys.ended(state) for state in ENDED))
            if sum(record.read([("ZCARD", name) for name in names])) >= self._jobs:
                return
            time.sleep(0.2)

    def look(self) -> None:
        """The thread does."""


def _state(row: JobRow) -> str:
    if row.state is State.DONE:
        return "done"
    return f"{row.state} {row.exit.get('reason')} {row.exit.get('exit_value')} {row.exit.get('message') or ''}"


if __name__ == "__main__":
    folder, plan = arguments()
    notes = Notes(folder, len(plan["jobs"]))
    follow(JobmillDoor(plan["options"]["url"], notes, len(plan["jobs"])), notes, folder, plan)
