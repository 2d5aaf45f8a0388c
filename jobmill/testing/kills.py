"""Killing is proved: what a killed job does after the system said that nothing of it exists any more is seen."""

from __future__ import annotations

import time

from jobmill.systems.system import NativeState
from jobmill.testing.launches import Launches
from jobmill.testing.subject import LONG, Subject

# A process that writes its name every tenth of a second, into a file that the test watches. $1 shared folder, $2 name
BEAT = 'n=0; while [ $n -lt 600 ] && [ ! -e "$1/stop" ]; do echo "$2" >> "$1/beats"; sleep 0.1; n=$((n + 1)); done'
STUBBORN = f"trap '' TERM HUP INT; {BEAT}"
# $1 shared folder, $2 BEAT, $3 STUBBORN
TREE = """
sh -c "$2" sh "$1" child &
sh -c "$3" sh "$1" stubborn &
(sh -c "$2" sh "$1" orphan &)
sh -c "$2" sh "$1" first
"""
FLED = """
setsid sh -c "$2" sh "$1" session &
(setsid sh -c "$3" sh "$1" daemon > /dev/null 2>&1 < /dev/null &)
cd /
sh -c "$2" sh "$1" first
"""


class Kills(Subject):
    """TERM, KILL, trees."""

    def test_kill_ends_what_runs(self) -> None:
        """Told to end, then killed, it is gone; its record, if there is one, is no success; its neighbour runs on."""
        launches = self.begin()
        job = self.body(seconds=LONG)
        handle, neighbour = launches.launch(job, self.body(seconds=LONG))
        launches.running(handle)
        launches.running(neighbour)
        launches.system.kill([handle], force=False)
        launches.killed(handle)
        seen = launches.look(handle)
        assert seen.state in (NativeState.ENDED, NativeState.ABSENT) and not seen.alive, seen
        if seen.state is NativeState.ENDED:
            info = launches.end(handle, job.token)
            assert not info.regular, f"a killed job is told as a success: {info}"
        assert launches.system.kill([handle], force=True)[handle], "what is gone stays gone"
        assert launches.look(neighbour).state is NativeState.RUNNING

    def test_kill_is_a_question_of_ends(self) -> None:
        """Of what has ended nothing exists: True, and its record stays what it was."""
        launches = self.begin()
        handle, info = launches.run(self.body(exit=3))
        for force in (False, True):
            launches.killed(handle, force=force)
        assert launches.system.exit_info([handle])[handle] == info

    def test_kill_takes_the_tree(self) -> None:
        """Children, orphans, and those that ignore TERM: when it says that nothing exists, nothing beats any more."""
        self.need("commands")
        self._kill_tree(TREE, {"child", "stubborn", "orphan", "first"})

    def test_kill_takes_what_fled(self) -> None:
        """So are processes in sessions of their own, daemons among them."""
        self.need("commands")
        self.need("fled")
        self._kill_tree(FLED, {"session", "daemon", "first"})

    def test_kill_is_not_told_before_it_is_true(self) -> None:
        """A process that ignores TERM lives: False, until it is killed. Nor is one told that fled out of reach."""
        self.need("commands")
        launches = self.begin()
        (handle,) = launches.launch(self.sh(STUBBORN, str(self.shared), "first"))
        self._beating(launches, {"first"})
        if launches.system.kill([handle], force=False)[handle]:
            self._silent(launches)
        if "fled" not in self.cannot:
            return
        (handle,) = launches.launch(self.sh(FLED, str(self.shared), BEAT, STUBBORN))
        self._beating(launches, {"session", "daemon"})
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            if launches.system.kill([handle], force=True)[handle]:
                self._silent(launches)
                return
            launches.wait(0.1)
        (self.shared / "stop").touch()  # out of its reach, and it says so
        launches.killed(handle)

    def _kill_tree(self, text: str, names: set[str]) -> None:
        launches = self.begin()
        (handle,) = launches.launch(self.sh(text, str(self.shared), BEAT, STUBBORN))
        self._beating(launches, names)
        launches.system.kill([handle], force=False)
        launches.wait(0.3)
        launches.killed(handle)
        self._silent(launches)
        assert not launches.look(handle).alive

    def _beats(self) -> list[str]:
        return self.written("beats").decode().split()

    def _beating(self, launches: Launches, names: set[str]) -> None:
        launches.until(lambda: names <= set(self._beats()), f"{names} to run")

    def _silent(self, launches: Launches) -> None:
        before = self._beats()
        launches.wait(self.quiet)
        alive = sorted(set(self._beats()[len(before) :]))
        assert alive == [], f"kill said that nothing exists any more, and these still run: {alive}"
