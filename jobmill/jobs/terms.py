"""What the judge of an end has to know of a job: its required outputs and its terms of retry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobmill.jobs.spec import JobSpec


def judging_terms(spec: JobSpec) -> dict[str, Any]:
    """Return outputs, workdir and retry as plain values; empty for the plain job, whose exit record says all."""
    terms: dict[str, Any] = {}
    if spec.outputs:
        terms["outputs"] = [[output.glob, output.required] for output in spec.outputs]
        terms["workdir"] = spec.workdir or ""
    if spec.retry is not None and spec.retry.max:
        retry = spec.retry
        terms["retry"] = {"max": retry.max, "delay": retry.delay, "backoff": retry.backoff, "on": list(retry.on)}
    return terms
