"""The jobs that are admitted under measurement: as people write them, as the Python client pushes them, as streams."""

from __future__ import annotations

from collections.abc import Sequence

from jobmill.jobs import document
from jobmill.jobs.spec import JobSpec
from jobmill.ledger.record import batches

STREAM = 1000  # documents of one stream
ID = "align-{number:07}"
USERS = ("ann", "bob", "eva", "tim")

JOB = """\
id: align-{number:07}
name: align-sample-{number}
command: bwa mem -t $JOBMILL_CPUS ref.fa reads_{number}.fq > sample_{number}.sam
user: {user}
env:
  LC_ALL: C.UTF-8
  SAMPLE: "{number}"
resources:
  cpus: 4
  memory: 8G
  walltime: 2h
tags: [alignment, batch-{batch}]
"""


def yaml_texts(jobs: int) -> list[str]:
    """Return so many different jobs of four users, a document each."""
    return [JOB.format(number=n, user=USERS[n % len(USERS)], batch=n // 1000) for n in range(jobs)]


def canonical(texts: Sequence[str]) -> list[str]:
    """Return the same jobs as one line of JSON each."""
    found = []
    for text in texts:
        (one,) = document.load(text.encode(), limit=1 << 20)
        found.append(JobSpec.parse(one).canonical())
    return found


def streams(texts: Sequence[str]) -> list[str]:
    """Return the same jobs as streams of `STREAM` documents."""
    return ["---\n".join(some) for some in batches(texts, STREAM)]
