"""The log of the workers: words of users cannot move the cursor, and cannot look like another line."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from jobmill.worker import log

FORGED = "no such \x1b[2Jname\n2026-11-21 02:38:30.599 manager[1] info: all is well\u202e"


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    logger = logging.getLogger("jobmill")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_only_a_process_begins_a_line() -> None:
    stream = io.StringIO()
    log.configure("manager", stream=stream).warning("refused: %s", FORGED, extra={"id": "x\ny"})
    told = stream.getvalue()
    assert "\x1b" not in told and "\u202e" not in told
    assert [line[:4] for line in told.splitlines()[1:]] == ["    ", "    "]


def test_a_json_line_is_one_line() -> None:
    stream = io.StringIO()
    log.configure("manager", as_json=True, stream=stream).warning("refused: %s", FORGED, extra={"id": "x"})
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == f"refused: {FORGED}" and line.isascii()
