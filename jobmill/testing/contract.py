"""What holds before anything is launched: building, checking, leading, odd questions, and a place that is not there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems.system import Check, Launch, NativeState, Settled, SubmitError, SubmitFailure
from jobmill.testing.subject import Subject

STRANGE = ("", " ", "4711", "no-such-handle", "../../../etc/passwd", "a/b:c:1", "x" * 300, "-rf", "$(id)", "é\n;'\"\\")
UNSEEN = (NativeState.ABSENT, NativeState.UNKNOWN)
PATIENCE_WITH_ABSENT = 60.0  # seconds in which a verb has to tell that nobody answers


class Contract(Subject):
    """Building, checking, leading."""

    def test_build_refuses_an_unknown_option(self) -> None:
        """A word that is not known is a ConfigError that names it: a typing error must not be an option left aside."""
        kind = type(self.begin().system)
        with pytest.raises(ConfigError) as told:
            kind.build("mine", {**self.options, "no_such_option": 1}, self.spool)
        assert "no_such_option" in str(told.value), "the error has to name the option that it does not know"

    def test_it_is_a_kind_with_a_name_and_limits(self) -> None:
        """The class has its `kind`, an instance its `name`, and `limits` tells the room in its queue."""
        system = self.begin().system
        assert isinstance(system.kind, str) and system.kind
        assert isinstance(system.name, str) and system.name
        limits = type(system).limits(None, 7, self.options)
        assert limits["queue"] is not None, "without a limit of `queue` it is closed"
        assert system.poll_interval > 0 and system.absence_grace >= 0

    def test_check_says_that_it_works(self) -> None:
        """`check` has something to say, and all of it is well here."""
        checks = list(self.begin().system.check())
        assert checks and all(isinstance(check, Check) for check in checks)
        assert all(check.name for check in checks)
        assert [f"{check.name}: {check.detail}" for check in checks if not check.ok] == []

    def test_it_can_be_led(self) -> None:
        """Who leads goes on leading; another instance may be refused, and nothing else happens to it."""
        first, second = self.begin(), self.begin(lead=False)
        assert first.system.lead()
        assert second.system.lead() in (True, False)
        assert first.system.lead()

    def test_nothing_asked_is_nothing_answered(self) -> None:
        """Every plural verb takes an empty list."""
        launches = self.begin()
        system = launches.system
        assert list(system.submit([])) == []
        assert not dict(system.status([])) and not dict(system.exit_info([])) and not dict(system.settle([]))
        assert not dict(system.kill([], force=False)) and not dict(system.kill([], force=True))
        system.release([])
        system.withdraw([])
        system.forget([])
        launches.turn(0.01)
        assert launches.started == [] and launches.ended == {}

    def test_handles_of_strangers(self) -> None:
        """A handle that it never gave out (the record may be older than the configuration) is never an end."""
        launches = self.begin()
        system = launches.system
        strange = [*STRANGE, system.handle_for(self.token("nobody"))] if system.launches_at_once else list(STRANGE)
        seen = system.status(strange)
        assert set(seen) <= set(strange), "status answers what was not asked"  # without an answer is UNKNOWN
        ends = {h: look.state.value for h, look in seen.items() if look.state not in UNSEEN}
        assert ends == {}, f"status makes states up: {ends}"
        assert not any(look.alive or look.held for look in seen.values())
        assert dict(system.exit_info(strange)) == {}
        assert set(system.kill(strange, force=True)) <= set(strange)
        system.release(strange)
        system.forget(strange)
        handle, info = launches.run(self.body())  # and nothing broke by it
        assert info.regular, info
        mixed = system.status(["no-such-handle", handle])
        assert mixed[handle].state in (NativeState.ENDED, NativeState.ABSENT)
        assert "no-such-handle" not in mixed or mixed["no-such-handle"].state in UNSEEN

    def test_an_absent_endpoint_is_told(self) -> None:
        """Nobody answers: SystemUnavailable or "unknown", a failed check with its fix; never an end, never a guess."""
        self.need("absent")
        present = self.begin()
        (handle,) = present.launch(self.body(seconds=60))
        system = self.make_absent(self.spool)
        token = self.token("nobody")
        begun = time.monotonic()

        def asked(verb: Callable[..., Any], *words: Any, **more: Any) -> Any:
            try:
                return verb(*words, **more)
            except SystemUnavailable as error:
                assert str(error).strip(), "SystemUnavailable has to say what does not answer"
                return None

        answers = asked(system.submit, [self.body()])
        if answers is not None and system.launches_at_once and isinstance(answers[0], str):
            asked(system.ends)  # it waits here until somebody answers, or it is given back
            waiting = asked(system.status, answers)
            assert waiting is None or waiting[answers[0]].state in (NativeState.SUBMITTED, *UNSEEN), waiting
        elif answers is not None:
            (answer,) = answers
            assert isinstance(answer, SubmitError), f"submit has a handle though nobody answers: {answer}"
            assert answer.failure in (SubmitFailure.TRANSIENT, SubmitFailure.UNCLEAR), answer
            assert answer.message.strip()
        seen = asked(system.status, [handle])
        unknown = not seen or seen[handle].state is NativeState.UNKNOWN
        assert unknown, f"who could not ask must not tell: {seen}"
        assert not asked(system.exit_info, [handle])
        settled = asked(system.settle, [Launch(token=token), Launch(token=self.token("other"), handle=handle)])
        assert settled is None or set(settled.values()) == {Settled.UNKNOWN}, settled
        killed = asked(system.kill, [handle], force=True)
        assert not killed or not killed.get(handle), "who could not ask cannot know that nothing exists any more"
        if system.surveys:
            with pytest.raises(SystemUnavailable):
                system.survey(self.record)
        asked(system.release, [handle])
        asked(system.withdraw, [token])
        asked(system.forget, [])
        wrong = [check for check in system.check() if not check.ok]
        assert wrong, "check finds nothing wrong though nobody answers"
        assert any(check.fix.strip() for check in wrong), f"no fix is told: {wrong}"
        assert time.monotonic() - begun < PATIENCE_WITH_ABSENT, "it has to give up in bounded time"
        asked(system.close)
