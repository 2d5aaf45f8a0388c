"""Jobs on their way, for whoever waits: a live board on a terminal, a line for each change in a pipe."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from jobmill.jobs.states import ENDED
from jobmill.ledger.explanation import Reason
from jobmill.ledger.listing import JobRow
from jobmill.screen import terminal
from jobmill.screen.job_row import spent
from jobmill.screen.moment import clock, duration
from jobmill.screen.table import bar, cells, shortened

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

MANY = 100  # jobs above which the plain board tells failures and counts only
ORDER = ("running", "collecting", "starting", "submitted", "unknown", "granted", "waiting", "later", "held", "")


class Board(Protocol):
    """Shows a number of jobs until they have ended."""

    def show(self, states: Mapping[str, str], rows: Sequence[JobRow], reasons: Mapping[str, Reason]) -> None:
        """Take note of all states and of the records and reasons of those that changed or are watched."""

    def tell(self, words: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """Leave the screen tidy."""


def board(names: Mapping[str, str]) -> Board:
    """Return the board that suits standard error; ``names``: id -> what to call a job."""
    return LiveBoard(names) if terminal.is_terminal(sys.stderr) else PlainBoard(names)


def summary(states: Mapping[str, str]) -> str:
    """Return ``3 of 7 ended: 2 done, 1 failed; 4 live: 2 running, 2 waiting``."""
    counts = Counter(state or "queued" for state in states.values())
    ended = {s: n for s, n in counts.items() if s in ENDED or s == "refused"}
    live = {s: n for s, n in counts.items() if s not in ended}
    words = f"{sum(ended.values()):,} of {len(states):,} ended"
    words += ": " + ", ".join(f"{n:,} {s}" for s, n in sorted(ended.items())) if ended else ""
    return words + ("; " + ", ".join(f"{n:,} {s}" for s, n in sorted(live.items())) if live else "")


class PlainBoard:
    """A line for each change, to standard error."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._told: dict[str, str] = {}
        self._counted = 0.0
        self._summary = ""

    def show(self, states: Mapping[str, str], rows: Sequence[JobRow], reasons: Mapping[str, Reason]) -> None:
        """Write what is new."""
        many = len(states) > MANY
        for row in rows:
            why = reasons[row.id].why if row.id in reasons else ""
            # how long it still takes changes all the time: the same wait is told once
            mark = f"{row.state} {row.facts.get('progress', '')} {why.split('; due')[0]}"
            if self._told.get(row.id) == mark or (many and (not row.ended or row.state == "done")):
                continue
            self._told[row.id] = mark
            took = f" after {duration(spent(row, time.time()))}" if row.ended else ""
            told = "" if why in ("", f"{row.state} on {row.system}") else f": {why}"
            self.tell(f"{self._names.get(row.id, row.id)} {row.state}{took}{told}")
        for job_id, reason in reasons.items():
            if states.get(job_id, "") in ("", "refused") and self._told.get(job_id) != reason.why and not many:
                self._told[job_id] = reason.why
                self.tell(f"{self._names.get(job_id, job_id)} {states.get(job_id) or 'queued'}: {reason.why}")
        if many and time.monotonic() > self._counted + 2 and (words := summary(states)) != self._summary:
            self._counted, self._summary = time.monotonic(), words
            self.tell(words)

    def tell(self, words: str) -> None:
        """Write a line with the time of day."""
        terminal.note(f"{clock(time.time())} {terminal.clean(words)}")
        sys.stderr.flush()

    def close(self) -> None:
        """Nothing to tidy."""


class LiveBoard:
    """One line a job while they fit, the interesting ones first, and a summary; redrawn in place."""

    def __init__(self, names: Mapping[str, str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._names = names
        self._rows: dict[str, JobRow] = {}
        self._reasons: dict[str, Reason] = {}
        self._states: Mapping[str, str] = {}
        self._began = time.monotonic()
        self._live: Live = Live(
            console=Console(stderr=True, highlight=False),
            get_renderable=self._drawn,
            refresh_per_second=5,
            transient=True,
        )
        self._live.start()

    def show(self, states: Mapping[str, str], rows: Sequence[JobRow], reasons: Mapping[str, Reason]) -> None:
        """Take note; the screen follows five times a second."""
        self._states = states
        self._rows.update({row.id: row for row in rows})
        self._reasons.update(reasons)

    def tell(self, words: str) -> None:
        """Write a line above the board."""
        self._live.console.print(terminal.clean(words), markup=False)

    def close(self) -> None:
        """Take the board away and leave the summary."""
        self._live.stop()
        terminal.note(f"{summary(self._states)}  ({duration(time.monotonic() - self._began)})")

    def _drawn(self) -> Text:
        from rich.text import Text

        states, wide = dict(self._states), max(20, terminal_width() - 1)
        room = max(3, terminal.height() - 3)
        rank = {state: n for n, state in enumerate(ORDER)}
        shown = sorted(states, key=lambda i: rank.get(states[i], 99)) if len(states) <= 5000 else list(self._rows)
        live = [i for i in shown if states.get(i, "") not in ENDED and states.get(i) != "refused"]
        ended = [i for i in shown if states.get(i, "") in ENDED or states.get(i) == "refused"]
        ended.sort(key=lambda i: (states[i] == "done", -self._rows[i].times.get("ended", 0) if i in self._rows else 0))
        chosen = live[:room]
        chosen += ended[: max(0, room - len(chosen))]
        longest = min(max((cells(self._names.get(i, i)) for i in chosen), default=8), wide // 3)
        text = Text(no_wrap=True, overflow="crop")
        now = time.time()
        for job_id in chosen:
            state, row = states.get(job_id) or "queued", self._rows.get(job_id)
            name = shortened(terminal.clean(self._names.get(job_id, job_id)), longest)
            text.append(f"{state:10} ", style=terminal.COLOUR_OF_STATE.get(state, ""))
            text.append(name + " " * (longest - cells(name)))
            text.append(f" {duration(spent(row, now)) if row else '-':>7}  ", style="dim")
            why = terminal.clean(self._reasons[job_id].why) if job_id in self._reasons else ""
            progress = row.facts.get("progress", "") if row and not row.ended else ""
            if fraction := _fraction(progress):
                text.append(bar(*fraction, size=12) + " ", style="cyan")
            text.append(shortened(why, max(8, wide - longest - 35)) + "\n")
        if len(chosen) < len(states):
            text.append(f"… and {len(states) - len(chosen):,} more\n", style="dim")
        count = sum(s in ENDED or s == "refused" for s in states.values())
        text.append(bar(count, max(1, len(states)), size=24) + " ", style="green")
        text.append(shortened(summary(states) if states else "nothing yet", wide - 36))
        text.append(f"  {duration(time.monotonic() - self._began)}", style="dim")
        return text


def terminal_width() -> int:
    """Return the columns of the terminal on which the board is."""
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def _fraction(progress: str) -> tuple[int, int] | None:
    """Return what `3/7 map` or `stages in 3/7, 2.1 of 5 GB` says."""
    found = re.match(r"(?:[a-z ]{1,20} )?(\d{1,9})/(\d{1,9})(?![^ ,])", progress, re.ASCII)
    return (int(found[1]), int(found[2])) if found else None
