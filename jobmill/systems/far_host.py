"""One far host as a system uses it: its guard, its desk, and how much of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import paramiko

from jobmill.systems.desk import Desk
from jobmill.systems.far_guard import FarGuard, Open
from jobmill.systems.greeting import Greeting
from jobmill.systems.guard_channel import GuardChannel
from jobmill.systems.run_as import RunAs
from jobmill.systems.system import End, Start, Submission, Token, Unwatched

LONGEST = 20.0  # seconds between two tries to start a guard, at most
AHEAD = (
    2  # launches for each slot that a host gets beyond its slots, so that a free slot need not wait for a line of ours
)
MOST_AHEAD = 64


class FarHost:
    """Whoever submits launches by the guard; everybody asks the desk. Not shared between threads."""

    def __init__(
        self,
        name: str,
        open_: Open,
        sftp: Callable[[], paramiko.SFTPClient],
        *,
        system: str,  # its name in the configuration
        slots: int | None = None,  # None: as many as it has cores
        python: str = "python3",
        folder: str = ".jobmill",  # ours there, absolute or relative to the home folder
        kill_grace: float = 5.0,  # seconds between TERM and KILL at the walltime
        path: str | None = None,  # PATH of the jobs
        shell: str = "/bin/sh",  # SHELL of the jobs
        env: Mapping[str, str] | None = None,  # on top of the clean environment
        run_as: RunAs | None = None,  # None: jobs run as who logs in
    ) -> None:
        self.run_as = run_as
        self.name, self.sftp = name, sftp
        self.given_slots = slots
        self.most: int | None = None  # of the whole system, where that is less
        self.channel: GuardChannel | None = None
        self.taken: dict[Token, int] = {}  # launches that were sent and have not ended -> their slots
        self._open, self._python, self._folder = open_, python, folder
        self._system, self._grace = system, kill_grace
        self._path, self._shell, self._env = path, shell, dict(env or {})
        self._desks: dict[str, Desk] = {}

    @property
    def used(self) -> int:
        """Return the slots that our launches take or will take."""
        return sum(self.taken.values())

    @property
    def slots(self) -> int:
        """Return how many may run there at once; 0 as long as nobody knows."""
        slots = self.given_slots if self.given_slots is not None else int(self._facts.get("cores", 0))
        return slots if self.most is None else min(slots, self.most)

    @property
    def ready(self) -> bool:
        """Tell whether it takes launches now."""
        return self.channel is not None and self.channel.guard is not None and self.channel.guard.ready

    @property
    def failed(self) -> str:
        """Return why it takes no launches, "" where it does or that is not known yet."""
        if self.channel is None or self.ready or not self.channel.why:
            return ""
        return f"{self.name}: {self.channel.why}"

    @property
    def _facts(self) -> Mapping[str, Any]:
        guard = self.channel.guard if self.channel is not None else None
        return guard.facts if isinstance(guard, FarGuard) else {}

    def desk(self, record: str) -> Desk:
        """Return the desk for the launches of one record: each has a spool of its own there."""
        if record not in self._desks:
            words = (self._folder, "far_desk", record or "none", [self._system])
            self._desks[record] = Desk(self.name, self._open, python=self._python, greeting=lambda: Greeting(*words))
        return self._desks[record]

    def refusal(self, it: Submission) -> str | None:
        """Return why it can never run a launch, or None."""
        acting = self.acting(it)
        return None if acting is None else acting.refusal(it)

    def acting(self, it: Submission) -> RunAs | None:
        """Return how a launch becomes its user's here, None where it does not."""
        return it.run_as or self.run_as

    def has_room(self, cpus: int, *, ahead: bool) -> bool:
        """Tell whether a launch may be sent; ``ahead``: some more than run at once."""
        if not self.ready or not self.slots:
            return False
        more = min(MOST_AHEAD, AHEAD * self.slots) if ahead else 0
        return not self.taken or self.used + cpus <= self.slots + more

    def begin(self, record: str) -> GuardChannel:
        """Open the channel to its guard, for whoever submits; the connection is made beside us."""
        if self.channel is None:
            self.channel = GuardChannel(lambda: self._guard(record), slots=self.given_slots, longest=LONGEST)
        return self.channel

    def launch(self, it: Submission) -> None:
        """Send one launch; `flush` afterwards."""
        assert self.channel is not None
        self.taken[it.token] = max(1, it.cpus)
        acting = self.acting(it)
        self.channel.launch(it if acting is None else replace(it, order=acting.order(it)))

    def receive(self) -> Sequence[Start | End | Unwatched]:
        """Return what happened there."""
        if self.channel is None:
            return ()
        was_ready = self.ready
        notices = self.channel.receive()
        for it in notices:
            if not isinstance(it, Start):  # an unwatched one holds its slot on: the runner there counts those of others
                self.taken.pop(it.token, None)
        if self.ready and not was_ready:
            self.follow()
        return notices

    def follow(self) -> None:
        """Tell the runner how many slots there are."""
        if self.channel is not None:
            self.channel.set_slots(self.slots)

    def close(self) -> None:
        """Hang up; what runs there goes on."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        for desk in self._desks.values():
            desk.close()
        self._desks.clear()

    def _guard(self, record: str) -> FarGuard:
        greeting = Greeting(self._folder, "guard", record, [self._system, repr(self._grace)])
        return FarGuard(self._open, python=self._python, greeting=greeting, env=self._environment)

    def _environment(self, facts: Mapping[str, Any]) -> dict[str, str]:
        """Return what every job there sees, whatever the login's environment holds."""
        env = {
            "HOME": str(facts["home"]),
            "USER": str(facts["user"]),
            "LOGNAME": str(facts["user"]),
            "SHELL": self._shell,
            "PATH": self._path or str(facts["path"]) or "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp",
            "JOBMILL_STEPPER": f"{facts['library']}/jobmill/jobs/stepper.py",
            "JOBMILL_STEPPER_PYTHON": str(facts["python"]),
        }
        return env | self._env
