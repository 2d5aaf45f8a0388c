"""The way from Job_Queue into the record: a batch is read while the server admits the one before."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jobmill.errors import JobmillError, ServerFull
from jobmill.ledger import admission
from jobmill.ledger.admission import Batch, Entry, Grants, Refusal
from jobmill.ledger.exchange import Call, checked
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import BATCH
from jobmill.manager.intake import Intake, Stream

logger = logging.getLogger("jobmill")

QUEUE = "Job_Queue"
SPLIT = 500  # parts of a stream that one script puts into the private list
READ = 8 << 20  # bytes of entries that are looked at in one go, and one more entry
PATIENCE = 1.0  # seconds of reading after which what was read is admitted: in between there are heartbeats
SHIFT = 0.5  # seconds of one go


class Doorway:
    """Admits what stands at the head of this manager's private list, batch after batch.

    While the server admits one batch the next one, which stands behind it in the list, is read. Nothing is lost by
    that when a process dies, or a reply is cut: what was read and not admitted is still at the head, to be read again.
    """

    def __init__(self, intake: Intake, limit: int, sets: Mapping[str, str]) -> None:
        """``limit``: bytes of one entry; ``sets``: system -> its in-queue set."""
        self._intake = intake
        self._limit = limit
        self._sets = sets
        self._stream: Stream | None = None  # what stands first of what was read last, where it is one

    def taking(self, member: Membership) -> Call[Batch]:
        """Return how the head of the private list is looked at: two batches of it."""
        return self._taking(member, 2 * BATCH, 0)

    def admit(self, member: Membership, head: Batch) -> int:
        """Admit for about `SHIFT` seconds; return how many entries were dealt with, BATCH or more to be called again.

        Raises Evicted, and TransientError: the next look at the list finds what the record made of it (law 2).
        """
        stop, done = time.monotonic() + SHIFT, 0
        front, behind = head.parted(BATCH)
        found = self._read(front)
        while found:
            if len(found) < len(front.entries):  # a stream, or large entries: what is behind moves up later
                behind = replace(behind, entries=())
            size = len(behind.entries)
            under_way = member.record.send(
                [
                    admission.admitting(member, front, found, time.time()),
                    *(admission.granting(system, capacity_set, BATCH) for system, capacity_set in self._sets.items()),
                    self._taking(member, BATCH if size else 2 * BATCH, size),
                ]
            )
            following = self._read(behind)
            words, *granted, ahead = under_way.answers()
            words, ahead = checked(words), checked(ahead)
            complain(granted)
            if words[0] in ("again", "refused"):  # it was dealt with before: look anew
                return max(done, BATCH)
            tell(found, words)
            done += len(found)
            if not under_way.in_order or time.monotonic() > stop:
                return max(done, BATCH)
            if size:
                front, found, behind = replace(behind, turn=ahead.turn), following, ahead
            else:
                front, behind = ahead.parted(BATCH)
                found = self._read(front)
        if front.entries and self._stream is not None:
            admission.split(member, front, pieces(self._stream.documents))
            return max(done, BATCH)
        return max(done, BATCH) if front.cut else done

    def _taking(self, member: Membership, count: int, skip: int) -> Call[Batch]:
        return admission.taking(member, QUEUE, count, self._limit, READ, skip)

    def _read(self, batch: Batch) -> list[Entry | Refusal]:
        """Read entries up to the first stream, for `PATIENCE` seconds; nothing where a stream is the first."""
        self._stream = None
        found: list[Entry | Refusal] = []
        until = time.monotonic() + PATIENCE
        for i, raw in enumerate(batch.entries):
            if i in batch.oversize:
                found.append(self._intake.oversize(batch.oversize[i], QUEUE))
            else:
                read = self._intake.read(raw, QUEUE)
                if isinstance(read, Stream):
                    self._stream = None if found else read
                    break
                found.append(read)
            if time.monotonic() > until:
                break
        return found


def tell(found: Sequence[Entry | Refusal], words: Sequence[str]) -> None:
    """Log what became of a batch."""
    for entry, word in zip(found, words, strict=False):
        if isinstance(entry, Refusal):
            logger.warning("refused: %s", entry.reason, extra={"id": entry.job_id or "?"})
        elif word == "dead":
            logger.warning("refused: its id is taken by another job", extra={"id": entry.job_id})
    first = found[0]
    if len(found) > 1:
        logger.info("admitted a batch", extra={"jobs": words.count("admitted"), "refused": words.count("dead")})
    elif isinstance(first, Entry) and words != ["dead"]:
        logger.info("%s", words[0], extra={"id": first.job_id, "system": first.system})


def complain(granted: Sequence[Grants | JobmillError]) -> None:
    """Log why a grant was refused; it is made again within a second."""
    for answer in granted:
        if isinstance(answer, ServerFull):
            logger.warning("no grants: %s", answer)
        else:
            checked(answer)


def pieces(documents: Sequence[str]) -> Sequence[str]:
    """Return at most SPLIT entries for the private list: documents, or shorter streams to be split in their turn.

    A document's text goes up to the next one's, so that their texts in a row are the stream as it was.
    """
    size = 1 if len(documents) <= SPLIT else max(SPLIT, -(-len(documents) // SPLIT))
    return ["".join(documents[i : i + size]) for i in range(0, len(documents), size)]
