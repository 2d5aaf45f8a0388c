"""How often the processes of one pilot, together, ask the scheduler that gives its allocations.

Who asked writes the answer beside the allocations, and all others take it from there: a second starter or fetcher asks
nothing. Times are our own clock's from when the file was seen to change, so no host's clock has to be right.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from typing import Any

from jobmill.systems import pilot_line
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.pilot_line import Line

ASKED = b"asked"  # the file's name in the pilot's folder
OTHERS = 1.3  # times the pause after which who has not asked last does it, in place of one that is gone
GROWTH = 2.0


class PilotPace:
    """What one process knows of the last question, whoever put it."""

    def __init__(self, line: Line, least: float, most: float, per_minute: float) -> None:
        """``least``, ``most``: seconds between two questions; ``per_minute``: queries of all processes together."""
        self.rows: dict[int, Row] = {}  # of the last answer, by the number of the allocation
        self._path = line.path(ASKED)
        self._least, self._most = least, max(least, most)
        self._each = 60.0 / per_minute  # seconds for each query
        self._text = b""
        self._seen = time.monotonic()  # when the last answer was
        self._soon = self._wait = 0.0  # seconds from then to the next question: where there is news, and without
        self._pause = least  # what that grows from

    def due(self, *, news: bool) -> bool:
        """Tell whether to ask now; ``news``: there is something that the last answer does not tell of."""
        text, now = pilot_line.read(self._path) or b"", time.monotonic()
        if text != self._text:
            self._take(text, now)
        return now - self._seen >= (self._soon if news else self._wait)

    def asks(self) -> None:
        """Note that the scheduler is being asked: it may not answer."""
        self._seen = time.monotonic()
        self._soon, self._wait = max(self._soon, self._least), max(self._wait, self._least)

    def asked(self, rows: Mapping[int, Row], queries: int) -> None:
        """Note an answer, and how many queries it took; raises OSError."""
        same = {n: (it.phase, it.state) for n, it in self.rows.items()}
        news = same != {n: (it.phase, it.state) for n, it in rows.items()}
        self._pause = self._least if news else min(self._most, self._pause * GROWTH)
        self._soon = max(self._least, queries * self._each)
        self._wait = max(self._pause, self._soon)
        said = {n: [it.native, it.token, it.phase.value, it.state, it.reason, it.host] for n, it in rows.items()}
        values = {"soon": self._soon, "wait": self._wait, "pause": self._pause, "nonce": random.random(), "rows": said}
        self._text = json.dumps(values).encode()
        self.rows, self._seen = dict(rows), time.monotonic()
        pilot_line.put(self._path, self._text)

    def _take(self, text: bytes, now: float) -> None:
        """Take over what another was answered; a job can write there as well, which delays a question at most."""
        self._text, self._seen = text, now
        try:
            found: Any = json.loads(text)
            rows = {int(n): _row(it) for n, it in found["rows"].items()}
            soon, wait, pause = (float(found[name]) for name in ("soon", "wait", "pause"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return
        if 0 <= soon <= wait <= self._most + 60 and self._least <= pause <= self._most:
            self.rows, self._pause, self._soon, self._wait = rows, pause, OTHERS * soon, OTHERS * wait


def _row(it: Any) -> Row:
    native, token, phase, state, reason, host = map(str, it)
    return Row(native=native, token=token, phase=Phase(phase), state=state, reason=reason, host=host)
