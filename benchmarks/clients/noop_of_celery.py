"""The application that Celery's worker and client share; the server's socket is in BENCHMARK_SOCKET."""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-not-found]

_SERVER = f"redis+socket://{os.environ['BENCHMARK_SOCKET']}"

app = Celery("noop", broker=f"{_SERVER}?virtual_host=0", backend=f"{_SERVER}?virtual_host=1")
app.conf.task_acks_late = True


@app.task  # type: ignore[untyped-decorator]
def noop(number: int) -> int:
    """Return the number."""
    return number
