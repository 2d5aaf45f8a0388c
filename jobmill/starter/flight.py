"""A launch that this starter began and whose end it has not told yet."""

from __future__ import annotations

from dataclasses import dataclass

from jobmill.ledger.keys import launch_name


@dataclass(slots=True, kw_only=True)
class Flight:
    """One launch; changed as news of it comes."""

    job_id: str
    run: int
    fence: int
    arrival: int  # under which the job was admitted; 0: not known
    system: str
    judge: str = ""  # JSON: what the fetcher has to know to judge the end; empty for the plain job
    poll_in: float = 10.0  # seconds from its commit to the first poll; sooner where there are steps to tell
    started: float = 0.0  # monotonic time at which the start was told; 0: not yet
    native: str = ""
    staged: str = ""  # its token once its inputs were brought

    @property
    def launch(self) -> tuple[str, int, int]:
        """Return what the record knows it by."""
        return launch_name(self.job_id, self.arrival), self.run, self.fence

    def end(self, exit_text: str, *, far: bool = False) -> str:
        """Return its end as an entry of Exit_Queue; ``far``: what it left has to be brought home."""
        judge = f',"judge":{self.judge}' if self.judge else ""
        judge += f',"system":"{self.system}"' if far else ""
        return f'{{"id":"{self.job_id}","run":{self.run},"arrival":{self.arrival},"exit":{exit_text}{judge}}}'
