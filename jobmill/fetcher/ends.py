"""Ends of launches: judged by what is known of them, recorded, and told in the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobmill.fetcher.homecoming import Brought, Homecoming
from jobmill.fetcher.judge import judge, regular
from jobmill.fetcher.output_look import Launch, Look
from jobmill.fetcher.outputs import Outputs
from jobmill.jobs.terms import judging_terms
from jobmill.ledger import ending, listing, poll
from jobmill.ledger.ending import RunEnd
from jobmill.ledger.poll import Due, Seen
from jobmill.ledger.polls import Left
from jobmill.ledger.record import Record, batches
from jobmill.systems.system import ExitInfo, ExitStatus, Handle

logger = logging.getLogger("jobmill")

COLLECTING = 1.0  # seconds between two polls of a job whose outputs are looked for


class Ends:
    """What a fetcher does with exit records that a system gave it."""

    def __init__(self, record: Record, spool: Path, home: Homecoming) -> None:
        self._record = record
        self._spool = spool
        self._home = home
        self.leavings: dict[str, list[Handle]] = {}  # system -> launches whose ends are recorded: it may forget them
        self._outputs = Outputs()

    def folder(self, job_id: str, run: int) -> Path:
        """Return the run folder."""
        return self._spool / "jobs" / job_id / f"run.{run}"

    def finish(self, over: Sequence[tuple[Due, ExitInfo]]) -> None:
        """End runs, by what the record says of their jobs; at most 250. Some have outputs to be looked for, longer."""
        terms = self._terms([job.job_id for job, _ in over if job.terms])
        coming = [(job, info) for job, info in over if self._comes_home(job, info)]
        home = self._home.collect([(j, info, _globs(terms.get(j.job_id, {}))) for j, info in coming])
        away = {_launch(job) for job, _ in coming}
        infos = [(job, info.to_dict()) for job, info in over]
        here = [(job, info) for job, info in infos if _launch(job) not in away]
        missing = self.missing([(job, self.look(job, info, terms.get(job.job_id, {}))) for job, info in here])
        ends: list[RunEnd] = []
        handles: list[tuple[str, Handle]] = []
        for job, info in infos:
            launch, own = _launch(job), terms.get(job.job_id, {})
            lacks, brought = missing.get(launch, ""), home.get(launch)
            if launch in away:
                if brought is None:
                    continue
                lacks = _lacks(brought, own, job.system)
            elif lacks is None and not job.wish:
                continue
            if job.wish:
                info["message"] = _who(job.wish)
            ends.append(
                judge(
                    job.job_id,
                    job.run,
                    info,
                    terms=own,
                    missing=lacks if lacks is not None else "its outputs were not looked for to the end",
                    unbrought=brought.failed if brought else "",
                    retries=job.retries,
                    wished=bool(job.wish),
                    arrival=job.arrival,
                )
            )
            kept = info.get("reason") == "lost" or (brought is not None and brought.failed)  # the only copy is there
            handles.append(("", "") if kept else (job.system, job.handle))
        self.record(ends, handles)
        self._home.forget(list(home))

    def _comes_home(self, job: Due, info: ExitInfo) -> bool:
        """Tell whether a launch left anything on a system that shares no files with us."""
        started = info.exit_status is not ExitStatus.ABORTED_BEFORE_RUNNING
        return started and bool(job.handle) and self._home.serves(job.system)

    def come_home(self) -> None:
        """End those whose files have come home, or will not."""
        for some in batches(self._home.home()):
            self.finish(some)

    def look(self, job: Due, info: Mapping[str, Any], terms: Mapping[str, Any]) -> Look | None:
        """Return the look for its outputs that a successful run needs. Raises as `Look.of` does."""
        if not (terms.get("outputs") and regular(info)):
            return None
        return Look.of((job.job_id, job.run, job.arrival), terms, self.folder(job.job_id, job.run))

    def missing(self, looks: Sequence[tuple[Due, Look | None]]) -> dict[Launch, str | None]:
        """Return in words what each run lacks that needs a look; None: to find out takes longer.

        Those whose handle is known are `collecting` then, and polled soon: their end is found again.
        """
        if not any(look for _, look in looks):
            return {}
        answer = self._outputs.missing([look for _, look in looks if look])
        slow = [job for job, look in looks if look and answer[look.launch] is None and job.handle]
        words = {"progress": "looks for its outputs"}
        seen = [
            Seen(job_id=j.job_id, run=j.run, arrival=j.arrival, state="collecting", poll_in=COLLECTING, fields=words)
            for j in slow
        ]
        if seen:
            poll.touch(self._record, seen)
        return answer

    def _terms(self, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return what the judge has to know of the jobs whose specs may say something."""
        if not job_ids:
            return {}
        from jobmill.jobs.spec import JobSpec  # with pydantic: most jobs have no terms

        specs = zip(job_ids, listing.specs(self._record, job_ids), strict=True)
        return {i: judging_terms(JobSpec.from_canonical(canonical)) for i, canonical in specs if canonical}

    def finish_plain(self, over: Sequence[tuple[Left, ExitInfo]], system: str) -> None:
        """End runs that nobody wished away and whose specs say nothing to the judge."""
        ends = [judge(j.job_id, j.run, info.to_dict(), terms={}, arrival=j.arrival) for j, info in over]
        self.record(ends, [(system, j.handle) for j, _ in over])

    def record(self, ends: Sequence[RunEnd], handles: Sequence[tuple[str, Handle]]) -> None:
        """Record ends that were judged; ``handles``: the system and the handle of each that may be forgotten there."""
        if not ends:
            return
        words = ending.finish(self._record, ends)
        self.tell(ends, words)
        for (system, handle), word in zip(handles, words, strict=True):
            if handle and word in ("ended", "later", "again"):
                self.leavings.setdefault(system, []).append(handle)

    def tell(self, ends: Sequence[RunEnd], words: Sequence[str]) -> None:
        """Say in the log what came of ends: the answers of `ending.finish`."""
        done: list[str] = []
        for end, word in zip(ends, words, strict=True):
            if word == "later":
                logger.info("run ended %s, runs again", end.state, extra={"id": end.job_id, "run": end.run})
            elif word == "ended" and end.state == "done":
                done.append(end.job_id)
            elif word == "ended":
                logger.info("ended %s", end.state, extra={"id": end.job_id, "run": end.run, "exit": end.exit})
        if done:
            logger.info("ended done", extra={"jobs": len(done)} if len(done) > 1 else {"id": done[0]})


def _launch(job: Due) -> Launch:
    return job.job_id, job.run, job.arrival


def _globs(terms: Mapping[str, Any]) -> list[str]:
    return [str(glob) for glob, _ in terms.get("outputs", ())]


def _lacks(brought: Brought, terms: Mapping[str, Any], system: str) -> str:
    """Return in words which required outputs did not come home, but for those whose transport failed."""
    required = [glob for glob, needed in terms.get("outputs", ()) if needed]
    if brought.stopped and required:
        return "its outputs were not brought home"
    gone = [glob for glob in required if glob in brought.unmatched]
    return f"required outputs are missing: {', '.join(gone)} (looked on {system})" if gone else ""


def _who(wish: str) -> str:
    try:
        facts = json.loads(wish)
        why = f": {facts['why']}" if facts.get("why") else ""
        return f"cancelled by {facts['who']}{why}"
    except (ValueError, KeyError, TypeError):
        return "cancelled"
