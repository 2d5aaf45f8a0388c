"""The way in of one host: one login for all, opened when somebody asks, and never tried in a storm.

Everything runs in the master's loop but three things that block: the login, opening a channel (both in threads that
only report), and paramiko's own reader.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_login import Login, LoginFailed
from jobmill.systems.ssh_relay import hang_up

FIRST = 1.0  # seconds of the first pause after a failure; each next one is twice as long
LONGEST = 60.0  # seconds
REFUSED = 300.0  # seconds after the host said no to all keys: fail2ban bans who comes back at once
HEALTHY = 10.0  # seconds of life after which a broken connection is no failure of the login
FULL = 1.0  # seconds until a host that opened no further session is asked again
FREED = 0.1  # seconds, when one of ours has just been closed
OPENERS = 8  # channels that are opened at the same time
STUCK_MOST = 4  # logins that never came back (an agent that waits for somebody) before no more are begun


@dataclass(eq=False, kw_only=True)
class Opening:
    """One client that waits for its channel."""

    client: socket.socket
    kind: str  # "command" or "subsystem"
    words: str
    outward: bytes  # what it has written already
    answer: Callable[[Opening, paramiko.Channel], None]
    refuse: Callable[[Opening, str, bool], None]  # words, permanent
    deadline: float | None = None  # time.monotonic(); None: the login is not there yet
    done: bool = field(default=False)


class Gate:
    """Holds the login, and those who wait for it."""

    def __init__(self, host: SshHost, post: Callable[[Callable[[], None]], None], log: Callable[[str], None]) -> None:
        """``post`` has a function called in the loop, from any thread."""
        self.host = host
        self.login: Login | None = None
        self.agent: str | None = None  # the agent's socket, as the latest client has it
        self._post = post
        self._log = log
        self._waiting: deque[Opening] = deque()
        self._under_way: set[Opening] = set()
        self._openers = ThreadPoolExecutor(OPENERS, thread_name_prefix="open")
        self._trying: Login | None = None
        self._tried_since = 0.0
        self._stuck: list[threading.Thread] = []
        self._thread: threading.Thread | None = None
        self._failures = 0
        self._failed: LoginFailed | None = None
        self._until = 0.0  # no login before
        self._seen: tuple[object, ...] = ()  # keys and files as they were at the failure
        self._full_until = 0.0  # the host opens no more sessions on this connection now
        self._full_words = ""
        self._freed = 0.0  # when the last channel was closed
        self._sessions: Callable[[], int] = lambda: 0

    def count_sessions(self, sessions: Callable[[], int]) -> None:
        """Have the number of open channels told by ``sessions``."""
        self._sessions = sessions

    @property
    def busy(self) -> bool:
        """True while somebody waits here."""
        return bool(self._waiting or self._under_way)

    def ask(self, it: Opening) -> None:
        """Open a channel for a client as soon as that can be."""
        self._waiting.append(it)
        self.step()

    def freed(self) -> None:
        """A channel has been closed: another one may find room."""
        self._freed = time.monotonic()
        self._full_until = min(self._full_until, self._freed + 0.02)  # the host needs a moment to notice

    def step(self) -> float | None:
        """Do what is due; return the seconds until the next call is, None: when something happens."""
        now = time.monotonic()
        if self.login is not None and not self.login.alive:
            self._lost(now)
        self._expire(now)
        if self._waiting and self.login is None and self._trying is None:
            self._begin(now)
        if self.login is not None:
            self._admit(self.login, now)
        return 0.05 if self._full_until > now and self._waiting else 0.25 if self.busy or self._trying else None

    def close(self) -> None:
        """Leave the host."""
        for login in (self.login, self._trying):
            if login is not None:
                login.close()

    # The login.

    def _begin(self, now: float) -> None:
        pause = self._until - now
        if pause > 0 and self._failed and self._failed.permanent and self._seen != self._look(self._failed):
            pause = 0  # somebody has changed something
        if pause > 0 and self._failed is not None:
            self._refuse_all(f"{self._failed}; tried again in {pause:.0f} s", self._failed.permanent)
            return
        self._stuck = [it for it in self._stuck if it.is_alive()]
        if len(self._stuck) >= STUCK_MOST:
            self._refuse_all(f"{self.host.label}: {STUCK_MOST} logins never came back; look at the ssh-agent", False)
            return
        if self.agent:
            os.environ["SSH_AUTH_SOCK"] = self.agent
        login = self._trying = Login(self.host)
        self._tried_since = now

        def run() -> None:
            failed: LoginFailed | None = None
            try:
                login.run()
            except LoginFailed as error:
                failed = error
            except Exception as error:  # whatever the library thinks of
                failed = LoginFailed(f"{self.host.label}: {type(error).__name__}: {error}")
            self._post(lambda: self._tried(login, failed))

        self._thread = threading.Thread(target=run, name="login", daemon=True)
        self._thread.start()

    def _tried(self, login: Login, failed: LoginFailed | None) -> None:
        if login is not self._trying:  # given up meanwhile
            login.close()
            return
        self._trying = None
        if failed is not None:
            self._fail(failed)
            return
        self.login, self._failed = login, None
        self._log(f"connected to {self.host.label}")
        self.step()

    def _fail(self, failed: LoginFailed) -> None:
        self._failures += 1
        if self._failed is None or str(self._failed) != str(failed):
            self._log(str(failed))
        pause = REFUSED if failed.refused else min(LONGEST, FIRST * 2.0 ** min(self._failures - 1, 16))
        pause *= 0.75 + 0.5 * random.random()
        self._failed, self._until, self._seen = failed, time.monotonic() + pause, self._look(failed)
        self._refuse_all(f"{failed}; tried again in {pause:.0f} s", failed.permanent)

    def _lost(self, now: float) -> None:
        """The connection broke: the next who asks has it opened anew, after a pause when it keeps breaking."""
        assert self.login is not None
        error = self.login.transport.get_exception()
        why = f": {error}" if error is not None and str(error) else ""
        self._log(f"lost the connection to {self.host.label}{why}")
        lived, login, self.login = now - self.login.since, self.login, None
        self._failures = 0 if lived >= HEALTHY else self._failures + 1
        login.close()
        if self._failures > 1:
            pause = min(LONGEST, FIRST * 2.0 ** min(self._failures - 2, 16)) * (0.75 + 0.5 * random.random())
            self._failed = LoginFailed(f"{self.host.label}: the connection breaks again and again{why}")
            self._until = now + pause
        for it in list(self._under_way):
            self._refuse(it, f"{self.host.label}: the connection broke{why}", False)

    def _look(self, failed: LoginFailed) -> tuple[object, ...]:
        """Return what would have helped this login here, to see that somebody changed it."""
        seen: list[object] = [self.agent, os.environ.get("SSH_AUTH_SOCK")]
        # what others connect to, and so add to known_hosts, is no reason to offer a refused key again
        known = () if failed.refused else [file for it in self.host.way for file in it.known_hosts]
        for file in (*known, *(file for it in self.host.way for file in it.keys)):
            try:
                found = Path(file).stat()
                seen.append((file, found.st_mtime_ns, found.st_size, found.st_ino))
            except OSError:
                seen.append((file, None))
        return tuple(seen)

    # The channels.

    def _admit(self, login: Login, now: float) -> None:
        while self._waiting and len(self._under_way) < OPENERS and now >= self._full_until:
            it = self._waiting.popleft()
            if it.done:  # its client is gone: nothing is started for nobody
                continue
            if it.deadline is None:
                it.deadline = now + self.host.connect_timeout
            self._under_way.add(it)
            self._openers.submit(self._open, it, login)
        for it in self._waiting:
            it.deadline = it.deadline or now + self.host.connect_timeout

    def _open(self, it: Opening, login: Login) -> None:
        """In a thread of its own, because the library waits for answers; the loop keeps the deadline.

        What failed is told by where it failed: of several opens at a time, the library may give one the other's error.
        """
        channel: paramiko.Channel | None = None
        full, words = True, ""
        try:
            channel = login.transport.open_session(timeout=self.host.connect_timeout)
            full = False
            channel.set_combine_stderr(True)
            if it.kind == "command":
                channel.exec_command(it.words)
            else:
                channel.invoke_subsystem(it.words)
        except (paramiko.SSHException, EOFError, OSError, ValueError) as error:
            words = str(error) or type(error).__name__
            if channel is not None:
                hang_up(channel)
                channel = None
        self._post(lambda: self._opened(it, login, channel, full, words))

    def _opened(self, it: Opening, login: Login, channel: paramiko.Channel | None, full: bool, words: str) -> None:
        self._under_way.discard(it)
        if it.done:  # its deadline is over, or its client is gone
            if channel is not None:
                hang_up(channel)
        elif channel is not None:
            it.done = True
            it.answer(it, channel)
        elif not login.alive:
            self._refuse(it, f"{self.host.label}: the connection broke: {words}", False)
        elif full:  # MaxSessions: wait for one that ends; a host frees it only when its command is gone, too
            now = time.monotonic()
            self._full_until = now + (FREED if now - self._freed < 1.0 or not self._sessions() else FULL)
            self._full_words = words
            self._waiting.appendleft(it)
        elif it.kind == "subsystem":
            fix = f"its sshd_config needs a line `Subsystem {it.words} …`"
            self._refuse(it, f"{self.host.label} has no {it.words}: {fix} ({words})", True)
        else:
            self._refuse(it, f"{self.host.label} does not start commands for us: {words}", True)
        self.step()

    def _expire(self, now: float) -> None:
        """Tell those whose time is over."""
        limit = self.host.connect_timeout
        steps = 3 * (1 + len(self.host.proxy_jump))
        if self._trying is not None and now - self._tried_since > steps * limit:
            login, self._trying = self._trying, None
            if self._thread is not None:
                self._stuck.append(self._thread)
            login.close()
            words = f"{self.host.label}: no login within {steps * limit:g} s (does an ssh-agent wait for somebody?)"
            self._fail(LoginFailed(words))
        for it in [it for it in self._waiting if it.deadline is not None and it.deadline < now]:
            self._waiting.remove(it)
            fix = "wait for one to end, or raise MaxSessions in its sshd_config (10 where nothing is said)"
            said = f" ({self._full_words})" if self._full_words else ""
            words = f"{self.host.label} opens no session besides the {self._sessions()} that are open: {fix}{said}"
            self._refuse(it, words, False)
        for it in [it for it in self._under_way if it.deadline is not None and it.deadline < now]:
            self._under_way.discard(it)
            self._refuse(it, f"{self.host.label} did not open a session within {limit:g} s", False)

    def _refuse(self, it: Opening, words: str, permanent: bool) -> None:
        self._under_way.discard(it)
        if not it.done:
            it.done = True
            it.refuse(it, words, permanent)

    def _refuse_all(self, words: str, permanent: bool) -> None:
        waiting, self._waiting = self._waiting, deque()
        for it in waiting:
            self._refuse(it, words, permanent)
