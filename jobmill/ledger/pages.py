"""A sorted set read in order, a page a command: the server serves others in between, however many members there are."""

from __future__ import annotations

from collections.abc import Iterator

from jobmill.ledger.record import Record, text

PAGE = 1000  # members of one answer: about a millisecond in the server


def pages(record: Record, key: str, *, newest: bool = False, size: int = PAGE) -> Iterator[list[tuple[str, float]]]:
    """Yield (member, score) by rising score, with ``newest`` by falling score; ``size``: members a page.

    A member that stays where it is comes once, whatever is added and removed meanwhile: a page begins at the score at
    which the last one ended, not at its rank. Only among equal scores that fill a whole page does the rank count.
    """
    command, begin, end = ("ZREVRANGEBYSCORE", "+inf", "-inf") if newest else ("ZRANGEBYSCORE", "-inf", "+inf")
    skip, seen = 0, set[str]()
    while True:
        answer = record.call(command, key, begin, end, "WITHSCORES", "LIMIT", skip, size)
        members, scores = [text(member) for member in answer[::2]], [text(score) for score in answer[1::2]]
        page = [(m, float(s)) for m, s in zip(members, scores, strict=True) if m not in seen]
        if page:
            yield page
        if len(members) < size:
            return
        seen = set(members)
        skip = skip + size if scores[-1] == begin else 0
        begin = scores[-1]
