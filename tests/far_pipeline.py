"""A pipeline whose system `far` shares no files with it, and the hooks that make that system sick."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import far_system  # noqa: F401 - registers the kind in this process, which reads logs
from pipeline import Pipeline

from jobmill.client import Client
from jobmill.ledger.listing import JobRow


class FarPipeline(Pipeline):
    """Manager, starter, fetcher; `local` and `far` with slots of their own."""

    def __init__(self, folder: Path, *, slots: int = 8, lease: float = 5.0, stage_patience: float = 3600.0) -> None:
        self.there = folder / "there"
        self.hooks = self.there / "hooks"
        self.hooks.mkdir(parents=True)
        config = (
            f"limits: {{lease: {lease:g}}}\nsystems:\n  local: {{kind: local, slots: {slots}}}\n"
            f"  far: {{kind: far, slots: {slots}, folder: {self.there}, stage_patience: {stage_patience:g}}}\n"
        )
        super().__init__(folder / "p", config=config)
        plugins = self.config.parent / "plugins" / "systems"
        plugins.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("far_system.py"), plugins / "far_system.py")

    def hook(self, name: str, text: str = "") -> None:
        (self.hooks / name).write_text(text)

    def unhook(self, name: str) -> None:
        (self.hooks / name).unlink(missing_ok=True)

    def told(self, name: str) -> Counter[str]:
        """Return the lines that the system wrote about itself: `attempts`, `forgotten`."""
        file = self.hooks / name
        return Counter(file.read_text().splitlines() if file.exists() else [])

    def home(self, job_id: str, run: int = 1) -> Path:
        return self.state / "spool" / "jobs" / job_id / f"run.{run}"

    def state_of(self, job_id: str) -> str:
        value = self.client.record.call("HGET", f"Job:{job_id}", "state")
        return value.decode() if value else ""

    def words_of(self, job_id: str) -> str:
        value = self.client.record.call("HGET", f"Job:{job_id}", "progress")
        return value.decode() if value else ""

    def until_state(self, job_id: str, state: str, timeout: float = 20.0) -> None:
        self.until(lambda: self.state_of(job_id) == state, timeout)


def ended(client: Client, job_id: str, timeout: float = 30.0) -> tuple[str, object, JobRow]:
    """Wait; return state, reason and the record."""
    row = client.wait(job_id, timeout=timeout)
    return str(row.state), row.exit.get("reason"), row


def names(folder: Path) -> set[bytes]:
    """Return all files below a folder, as bytes relative to it."""
    top = os.fsencode(folder)
    return {os.path.relpath(where + b"/" + name, top) for where, _, files in os.walk(top) for name in files}
