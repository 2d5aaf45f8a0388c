"""What users push, by chance: jobs, nearly jobs, tricks, damaged documents, noise.

One generator serves both sides: with a seeded `random.Random` it is fast and repeatable; hypothesis brings its own
`Random` and makes a failing document small.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hypothesis import strategies as st

from tests.fuzz.corpus import corpus, mutated
from tests.fuzz.specs import nearly, some_id, valid, written
from tests.fuzz.tricks import raw, trick

KINDS = {"valid": 30, "nearly": 25, "trick": 18, "mutated": 16, "raw": 5, "again": 6}


def document(draw: Random, earlier: list[bytes] | None = None, ids: list[str] | None = None) -> bytes:
    """Return one entry. ``earlier`` and ``ids``: what was pushed before, which may be pushed again or waited for."""
    earlier, ids = earlier or [], ids if ids is not None else []
    (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
    job_id = some_id(draw)
    if kind == "again" and earlier:
        return draw.choice([draw.choice(earlier), mutated(draw, draw.choice(earlier), 1)])
    if kind in ("valid", "nearly", "again"):
        make = nearly if kind == "nearly" else valid
        data = written(draw, make(draw, job_id, ids[-50:]))
        ids.append(job_id)
        return data
    if kind == "trick":
        return trick(draw, job_id)
    if kind == "mutated":
        source = draw.choice(corpus()) if draw.random() < 0.5 else written(draw, valid(draw, job_id, ids[-50:]))
        return mutated(draw, source)
    return raw(draw)


def documents(seed: int, count: int) -> Iterator[bytes]:
    """Yield so many entries that depend on the seed alone."""
    draw = Random(f"fuzz {seed}")
    earlier: list[bytes] = []
    ids: list[str] = []
    for number in range(count):
        entry = document(draw, earlier, ids)
        earlier.append(entry)
        if number >= 500:
            del earlier[draw.randrange(500)]
        del ids[:-200]
        yield entry


ENTRIES: st.SearchStrategy[bytes] = st.one_of(
    st.builds(document, st.randoms(use_true_random=False)),
    st.builds(trick, st.randoms(use_true_random=False), st.sampled_from(["", "x-1"])),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=300),
)
