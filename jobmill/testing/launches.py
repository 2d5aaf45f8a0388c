"""Drives launches of any system to their ends: submit, commit, release, then what is pushed, else polls."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import pytest

from jobmill.systems.system import (
    End,
    ExecutionSystem,
    ExitInfo,
    Handle,
    NativeState,
    Observation,
    Start,
    Submission,
    SubmitError,
    Token,
)

Found = TypeVar("Found")
FIRST, LONGEST = 0.02, 0.5  # seconds between two looks: the first pause, and the longest it grows to


class Launches:
    """One instance of a system, as one process has it, and what was launched by it."""

    def __init__(self, system: ExecutionSystem, *, patience: float) -> None:
        """``patience``: seconds after which what has to come is not waited for any more."""
        self.system = system
        self.patience = patience
        self.handles: list[Handle] = []
        self.started: list[Token] = []  # as pushed
        self.ended: dict[Token, ExitInfo] = {}  # as pushed
        self._again: set[Token] = set()  # submitted again after their ends

    def submit(self, *submissions: Submission) -> list[Handle]:
        """Submit, held where the system holds; fail unless each gets a handle."""
        self._again.update(it.token for it in submissions if it.token in self.ended)
        answers = list(self.system.submit(submissions))
        refused = [answer for answer in answers if isinstance(answer, SubmitError)]
        assert not refused, f"submit refused {len(refused)} of {len(answers)}: {refused[0]}"
        assert len(answers) == len(submissions), "submit has to answer each submission"
        handles = [answer for answer in answers if isinstance(answer, str)]
        assert len(handles) == len(answers), f"a handle is text, this is none: {answers}"
        self.handles += handles
        return handles

    def launch(self, *submissions: Submission) -> list[Handle]:
        """Submit and release, as the starter does once the record has the handles."""
        handles = self.submit(*submissions)
        self.system.release(handles)
        return handles

    def run(self, submission: Submission) -> tuple[Handle, ExitInfo]:
        """Launch one, wait for its end, and return its handle and record."""
        (handle,) = self.launch(submission)
        return handle, self.end(handle, submission.token)

    def end(self, handle: Handle, token: Token | None = None) -> ExitInfo:
        """Wait for the exit record of a launch; fail when what was pushed of it, or what status says, differs."""

        def record() -> ExitInfo | None:
            return self.system.exit_info([handle]).get(handle)

        found = self.until(record, f"the exit record of {handle}")
        if token is not None and token in self.ended:
            pushed = self.ended[token]
            said = (pushed.exit_status, pushed.exit_value, pushed.term_sig)
            assert said == (found.exit_status, found.exit_value, found.term_sig), "pushed end and record differ"
        return found

    def ends(self, handles: Sequence[Handle]) -> dict[Handle, ExitInfo]:
        """Wait for the records of all."""
        found: dict[Handle, ExitInfo] = {}

        def all_there() -> bool:
            found.update(self.system.exit_info([handle for handle in handles if handle not in found]))
            return len(found) == len(handles)

        self.until(all_there, f"the exit records of {len(handles)} launches")
        return found

    def look(self, handle: Handle) -> Observation:
        """Return what status says of one."""
        answer = self.system.status([handle])
        assert isinstance(answer.get(handle), Observation), f"status has to answer for each handle, it said {answer}"
        return answer[handle]

    def running(self, handle: Handle) -> Observation:
        """Wait until a launch runs, as status has it."""

        def look() -> Observation | None:
            seen = self.look(handle)
            assert seen.state is not NativeState.ENDED, f"{handle} has ended, it should run: {self._record(handle)}"
            return seen if seen.state is NativeState.RUNNING else None

        return self.until(look, f"{handle} to run")

    def killed(self, handle: Handle, *, force: bool = True) -> None:
        """Kill until nothing exists any more."""
        self.until(lambda: self.system.kill([handle], force=force).get(handle, False), f"the death of {handle}")

    def until(self, look: Callable[[], Found | None], what: str) -> Found:
        """Return the first answer of ``look`` that is true, taking meanwhile what is pushed; fail after `patience`."""
        deadline = time.monotonic() + self.patience
        pause = FIRST
        while not (found := look()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited {self.patience:g} s for {what}")
            self.turn(pause)
            pause = min(LONGEST, pause * 1.3)
        return found

    def wait(self, seconds: float) -> None:
        """Let time pass, taking what is pushed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.turn(min(left, LONGEST))

    def turn(self, seconds: float) -> None:
        """Wait for something to be pushed, at most so many seconds, and take it."""
        fd = self.system.fileno()
        if fd is None:
            time.sleep(seconds)
        else:
            select.select([fd], [], [], seconds)
        for notice in self.system.ends():
            if isinstance(notice, Start):
                self.started.append(notice.token)
            elif isinstance(notice, End):
                info, told = ExitInfo.from_json(notice.exit), self.ended.get(notice.token)
                if info.reason == "taken":  # another was first, and nobody can tell yet: a worker settles it later
                    continue
                if told is not None and notice.token in self._again:  # who asks again may be told again
                    self._again.discard(notice.token)
                    assert told == info, f"{notice.token} was pushed with two ends: {told} and {info}"
                else:
                    assert told is None, f"the end of {notice.token} was pushed twice"
                self.ended[notice.token] = info

    def clear_up(self) -> None:
        """Kill what is left and close; whatever goes wrong here, the test has told it before."""
        until = time.monotonic() + min(self.patience, 10.0)
        left = list(self.handles)
        with suppress(Exception):
            over = self.system.exit_info(left)
            left = [handle for handle in left if handle not in over]
        while left and time.monotonic() < until:
            gone: dict[Handle, bool] = {}
            with suppress(Exception):
                gone.update(self.system.kill(left, force=True))
            left = [handle for handle in left if not gone.get(handle)]
            if left:
                time.sleep(0.1)
        with suppress(Exception):
            self.system.forget(self.handles)
        with suppress(Exception):
            self.system.close()

    def _record(self, handle: Handle) -> ExitInfo | None:
        return self.system.exit_info([handle]).get(handle)
