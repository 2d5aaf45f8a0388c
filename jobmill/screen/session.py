"""A session of `jobmill run`: pipeline, submission, progress, results, and what Ctrl-C means."""

from __future__ import annotations

from collections.abc import Sequence

from jobmill.client import Client
from jobmill.config import Config
from jobmill.daemon.pipeline import pipeline
from jobmill.errors import SpecError
from jobmill.jobs.job_file import read_specs
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.ledger.following import Following
from jobmill.ledger.record import Record, batches
from jobmill.screen import terminal
from jobmill.screen.attendance import attend
from jobmill.screen.progress import board
from jobmill.screen.result import names_of, show_results


def run(
    config: Config, files: Sequence[str], *, settings: Sequence[str], slots: int | None, keep: bool, as_json: bool
) -> int:
    """Run the jobs of these files to their ends; return the exit code."""
    specs = [spec for name in files for spec in read_specs(name, settings=settings)]  # before anything is started
    with pipeline(config, slots=slots, keep=keep) as served:
        if slots is not None and not served.own:
            terminal.note("a pipeline serves here already: --slots is left aside (jobmill capacity set local.slots N)")
        client = Client(record=Record(served.url, prefix=config.redis.prefix))
        try:
            code = follow(client, specs, as_json=as_json, cancels=True)
        finally:
            client.close()
        if keep and served.process:
            terminal.note(
                f"the pipeline stays up (process {served.process}): jobmill info; kill {served.process} ends it"
            )
    return code


def follow(client: Client, specs: Sequence[JobSpec], *, as_json: bool, cancels: bool) -> int:
    """Submit, attend and show the results of jobs. Ctrl-C leaves; with ``cancels`` the first one cancels the jobs."""
    specs = [client.complete(spec) for spec in specs]
    names = names_of(specs)
    following = Following(client.record)
    note_earlier(client, specs)
    following.add(client.send(specs))
    shown = board(names)
    interrupted = False
    try:
        while True:
            try:
                attend(following, shown)
                break
            except KeyboardInterrupt:
                if interrupted or not cancels:
                    raise
                interrupted = True
                left = sorted(following.left)
                shown.tell(f"cancels {len(left):,} jobs and waits for their ends; Ctrl-C again leaves at once")
                client.cancel(left, why="Ctrl-C at jobmill run")
    finally:
        shown.close()
        if following.left:
            terminal.note(
                f"{len(following.left):,} jobs have not ended; they go on while a pipeline is up (jobmill list)"
            )
    code = show_results(client, following, names, as_lines=as_json)
    return 130 if interrupted and code != 0 else code


def note_earlier(client: Client, specs: Sequence[JobSpec]) -> None:
    """Raise SpecError for an id that another job has; say so when the very job has run before."""
    for some in batches([spec for spec in specs if spec.id is not None]):
        ids = [str(spec.id) for spec in some]
        known = listing.specs(client.record, ids)
        states = listing.states(client.record, ids)
        for spec, text, state in zip(some, known, states, strict=True):
            if text and text != spec.canonical():
                raise SpecError(
                    f"id {spec.id}: another job has it (jobmill show {spec.id}); give this one its own, or none"
                )
            if text and state in ENDED:
                terminal.note(f"{spec.id} has run before and ended {state}; once more: jobmill retry {spec.id}")
