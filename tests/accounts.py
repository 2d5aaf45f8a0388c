"""Accounts for tests: real users of this machine, made with useradd and removed with all that they run and own."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from farm import Missing, need, run

from jobmill.systems import process_tree

PROGRAMS = {"useradd": "passwd", "sudo": "sudo", "setpriv": "util-linux"}


class Accounts:
    """The users ann and bob, who submit, and work, who runs workers and may become them by sudo."""

    def __init__(self) -> None:
        stem = f"jm{os.getpid() % 100000}"
        self.ann, self.bob, self.work = f"{stem}ann", f"{stem}bob", f"{stem}work"
        self.twin = f"{stem}twin"  # another name of uid 0
        self.service = f"{stem}service"  # a system account
        self.sudoers = Path(f"/etc/sudoers.d/{stem}")
        self.folder = Path(tempfile.mkdtemp(prefix=f"{stem}-", dir="/tmp"))  # where everybody may pass

    def up(self) -> None:
        """Make them."""
        self.folder.chmod(0o755)
        for name in (self.ann, self.bob, self.work):
            home = self.folder / name
            run("useradd", "-m", "-d", str(home), "-U", "-s", "/bin/sh", "-p", "*", name)
            home.chmod(0o700)
        run("useradd", "-M", "-o", "-u", "0", "-g", self.ann, "-s", "/bin/sh", self.twin)
        run("useradd", "-M", "-r", "-s", "/bin/sh", self.service)
        self.sudoers.write_text(f"{self.work} ALL=({self.ann},{self.bob}) NOPASSWD: ALL\n")
        self.sudoers.chmod(0o440)

    def down(self) -> None:
        """Remove them, also what is only half there."""
        uids = {self.uid(name) for name in (self.ann, self.bob, self.work) if self._known(name)}
        until = time.monotonic() + 10
        while (pids := processes(uids) + _switches({self.ann, self.bob})) and time.monotonic() < until:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self.sudoers.unlink(missing_ok=True)
        for name in (self.twin, self.service, self.ann, self.bob, self.work):
            subprocess.run(["userdel", "-f", name], capture_output=True, timeout=30, check=False)
        for name in (self.ann, self.bob, self.work, self.service):
            subprocess.run(["groupdel", name], capture_output=True, timeout=30, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def uid(self, name: str) -> int:
        """Return a user's number."""
        return pwd.getpwnam(name).pw_uid

    def as_user(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program as one of them."""
        switch = ["setpriv", "--reuid", name, "--regid", grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name]
        command = [*switch, "--init-groups", "--", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd="/")

    def _known(self, name: str) -> bool:
        with contextlib.suppress(KeyError):
            return bool(pwd.getpwnam(name))
        return False


@contextlib.contextmanager
def accounts() -> Iterator[Accounts]:
    """Give the accounts; raises Missing where none can be made."""
    if os.geteuid() != 0:
        raise Missing("accounts are made by root: run the tests as root, in a container for example")
    need(PROGRAMS)
    made = Accounts()
    try:
        made.up()
        yield made
    finally:
        made.down()


def processes(uids: set[int]) -> list[int]:
    """Return what these users run; zombies are gone already."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                it = process_tree.process(int(entry.name)) if entry.stat().st_uid in uids else None
                if it is not None and it.state not in process_tree.GONE:
                    found.append(it.pid)
    return found


def _switches(names: set[str]) -> list[int]:
    """Return the processes of sudo to these users: root's, and perhaps stopped."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text(errors="replace").split("\0")
                if words[0] == "sudo" and names & set(words):
                    found.append(int(entry.name))
    return found
