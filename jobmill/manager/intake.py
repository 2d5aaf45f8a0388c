"""From a queue entry to jobs: documents, specs, routes; or the reason why not."""

from __future__ import annotations

import getpass
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jobmill.config import Config
from jobmill.errors import JobmillError, SpecError
from jobmill.jobs import document
from jobmill.jobs.document import Document
from jobmill.jobs.spec import ID_PATTERN, JobSpec, new_id
from jobmill.ledger.admission import Entry, Refusal
from jobmill.manager.needs import Needs
from jobmill.rules.dispatcher import Dispatcher

logger = logging.getLogger("jobmill")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An entry that holds several documents: it is split in place first."""

    documents: Sequence[str]


class Intake:
    """Turns raw entries into `Entry` or `Refusal`; never raises for what a user wrote."""

    def __init__(self, config: Config, dispatcher: Dispatcher, needs: Needs) -> None:
        self._limit = config.limits.document
        self._dispatcher = dispatcher
        self._needs = needs
        self._user = getpass.getuser()

    def oversize(self, size: int, queue: str) -> Refusal:
        """Return the refusal of an entry that is too large to be read."""
        return Refusal(
            reason=f"the document has {size:,} bytes, the limit is {self._limit:,}; "
            "put data into files and name them, or raise limits.document in jobmill.yaml",
            queue=queue,
        )

    def read(self, raw: bytes, queue: str) -> Entry | Refusal | Stream:
        """Read one queue entry."""
        documents: Sequence[Document] = ()
        try:
            documents = document.load(raw, limit=self._limit, together=True)
            if len(documents) > 1:
                return Stream(documents=[d.entry for d in documents])
            return self._admit(JobSpec.parse(documents[0]))
        except JobmillError as error:
            reason = str(error) or type(error).__name__
            return Refusal(reason=reason, queue=queue, job_id=_id_of(documents[0]) if documents else "")
        except Exception as error:  # it would take the manager along, and each that comes after it
            job_id = _id_of(documents[0]) if documents else ""
            logger.exception("an entry broke its reader; it is refused", extra={"id": job_id or "?"})
            words = f"{type(error).__name__} in jobmill itself while it was read; please report it with this entry"
            return Refusal(reason=words, queue=queue, job_id=job_id)

    def _admit(self, spec: JobSpec) -> Entry:
        user = spec.user or self._user
        if spec.id is None or spec.user is None:
            spec = spec.model_copy(update={"id": spec.id or new_id(), "user": user})
        if spec.inputs and (loose := [one.source for one in spec.inputs if not one.source.startswith(("/", "~"))]):
            raise SpecError(
                f"inputs: {loose[0]!r} is relative, and a job that was pushed has no folder that it could be "
                "relative to; write an absolute path, or send it by jobmill submit"
            )
        choice = self._dispatcher.choose(spec)
        if choice.system is None:
            raise SpecError(choice.message)
        place, due = "waiting", 0.0
        if spec.hold:
            place = "held"
        elif spec.start_after is not None:  # by the server's clock, which wakes what is due within a second
            place, due = "later", spec.start_after
        assert spec.id is not None
        return Entry(
            job_id=spec.id,
            spec=spec.canonical(),
            system=choice.system,
            user=user,
            needs=self._needs.of(spec, choice.system),
            name=spec.name or "",
            priority=spec.priority or 0,
            place=place,
            due=due,
            depends_on=spec.depends_on or (),
            after=spec.after or "ok",
            tags=spec.tags or (),
        )


def _id_of(document: Document) -> str:
    """Return the id that a document gives, even where the rest of it is wrong: who waits for it is told the reason."""
    job_id = document.data.get("id")
    return job_id if isinstance(job_id, str) and re.fullmatch(ID_PATTERN, job_id) else ""
