"""Jobs that run as their users on a host behind SSH, where a plain user logs in and may become them by sudo."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from accounts import Accounts, accounts, processes
from farm import Missing, Sshd, one_sshd
from test_run_as import ESCAPES, SETPRIV, SUDO
from test_ssh_system import Bench
from tokens import RECORD

from jobmill.errors import StageFailed
from jobmill.systems.system import Launch, NativeState, Submission, Transfer

pytestmark = pytest.mark.timeout(120)


@dataclass
class There:
    """The accounts, and the host where they are."""

    users: Accounts
    host: Sshd
    far: Path  # our folder there

    def options(self, login: str, **more: Any) -> dict[str, Any]:
        return self.host.options(user=login, folder=str(self.far / login), slots=4, kill_grace=0.5, **more)


@pytest.fixture(scope="module")
def there() -> Iterator[There]:
    try:
        with accounts() as users, one_sshd(users.folder / "sshd") as host:
            far = users.folder / "far"
            far.mkdir(mode=0o755)
            far.chmod(0o1777)
            yield There(users, host, far)
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


class AsBench(Bench):
    """An ssh system whose jobs are ann's, unless they say otherwise."""

    def __init__(self, folder: Path, options: dict[str, Any], there: There, login: str) -> None:
        super().__init__(folder, options)
        self.there, self.login = there, login

    def sh(self, name: str, text: str, **fields: Any) -> Submission:
        token = f"{RECORD}.1:{name}:1"
        fields = {"user": self.there.users.ann, **fields}
        return Submission(token=token, job_id=name, run=1, argv=("/bin/sh", "-c", text), **fields)

    def run(self, *jobs: Submission) -> list[Any]:
        self.submit(*jobs)
        self.until(lambda: all(it.token in self.ends for it in jobs))
        return [self.ends[it.token] for it in jobs]

    def run_folder(self, name: str) -> Path:
        (found,) = (self.there.far / self.login / "spool").glob(f"*/jobs/{name}/run.1")
        return found


@pytest.fixture(params=["work by sudo", "root by setpriv"])
def bench(request: pytest.FixtureRequest, there: There, tmp_path: Path) -> Iterator[AsBench]:
    login, words = (there.users.work, SUDO) if request.param == "work by sudo" else ("root", SETPRIV)
    made = AsBench(tmp_path, there.options(login, run_as=words), there, login)
    try:
        yield made
    finally:
        handles = [made.system.handle_for(token) for token in made.starts if token not in made.ends]
        until = time.monotonic() + 10
        while handles and not all(made.system.kill(handles, force=True).values()) and time.monotonic() < until:
            time.sleep(0.05)
        for system in made.made:
            system.close()
        for path in (there.far / login / "spool").glob("*/jobs/*"):
            shutil.rmtree(path)


def test_a_job_is_its_users(bench: AsBench) -> None:
    users = bench.there.users
    text = "id -un; echo $HOME; pwd; echo $X; cat note; echo why > $JOBMILL_ERROR_FILE; umask; exit 3"
    ends = bench.run(
        bench.sh("a", text, env={"X": "1"}, files={"note": "n\n"}),
        bench.sh("b", "kill -11 $$"),
        bench.sh("c", "id -un", user=users.bob),
        bench.sh("d", "id", user=users.service),
        bench.sh("e", "id", user=users.twin),
        bench.sh("f", "id", workdir=str(users.folder / users.bob)),
    )
    assert (ends[0].exit_value, ends[0].message) == (3, "why"), ends[0]
    assert ends[1].term_sig == 11 and ends[2].exit_value == 0
    assert "below run_as_least_uid" in ends[3].message and "is root" in ends[4].message
    assert ends[3].reason == "submit_failed" and ends[5].reason == "start_failed"
    handle = bench.system.handle_for(f"{RECORD}.1:a:1")
    said = bench.system.logs(handle, "stdout", 0).decode().split("\n")
    assert said[:5] == [users.ann, str(users.folder / users.ann), str(bench.run_folder("a")), "1", "n"]
    assert bench.system.logs(bench.system.handle_for(f"{RECORD}.1:c:1"), "stdout", 0).decode() == f"{users.bob}\n"


def test_a_job_of_the_workers_own_user_is_refused(there: There, tmp_path: Path) -> None:
    bench = AsBench(tmp_path, there.options(there.users.work, run_as=SUDO), there, there.users.work)
    try:
        (end,) = bench.run(bench.sh("own", "id", user=there.users.work))
        assert end.exit_status == "aborted_before_running" and "runs the workers" in end.message
    finally:
        bench.system.close()


def test_a_kill_reaches_all_and_proves_it(bench: AsBench) -> None:
    users = bench.there.users
    bench.submit(bench.sh("k", ESCAPES))
    bench.until(lambda: (bench.run_folder("k") / "up").exists() if bench.starts else False)
    handle = bench.system.handle_for(f"{RECORD}.1:k:1")
    assert len(processes({users.uid(users.ann)})) >= 4
    assert bench.system.kill([handle], force=False)[handle] is False  # it ignores TERM
    until = time.monotonic() + 3
    while not bench.system.kill([handle], force=True)[handle]:
        assert time.monotonic() < until
    assert processes({users.uid(users.ann)}) == []
    bench.until(lambda: f"{RECORD}.1:k:1" in bench.ends)
    assert bench.ends[f"{RECORD}.1:k:1"].term_sig == 9


def test_the_walltime_ends_all(bench: AsBench) -> None:
    users = bench.there.users
    (end,) = bench.run(bench.sh("w", ESCAPES, walltime=1.5))
    assert end.reason == "timeout" and end.term_sig == 9, end
    assert processes({users.uid(users.ann)}) == []


def test_inputs_and_outputs_are_the_users(bench: AsBench, tmp_path: Path) -> None:
    """The users of this machine and of that host are the same here, as with one directory service."""
    place = bench.there.users.folder / f"s{time.monotonic_ns()}"
    place.mkdir(mode=0o755)
    (place / "open").write_text("open\n")
    (place / "secret").write_text("secret\n")
    (place / "secret").chmod(0o600)
    text = "cat open; echo more >> open; mkdir d; seq 30000 > d/n.out; echo x > x.out;"
    text += f"ln -s {place}/secret s.out; ln -s {place}/open o.out"
    wanted = (Transfer(source=str(place / "open"), target="open"),)
    job = bench.system.stage_in(bench.sh("s", text, inputs=wanted), lambda _: None)
    hidden = replace(job, token=f"{RECORD}.1:t:1", inputs=(Transfer(source=str(place / "secret"), target="x"),))
    with pytest.raises(StageFailed, match="Permission denied"):
        bench.system.stage_in(hidden, lambda _: None)
    with pytest.raises(StageFailed, match="leave workdir: out"):
        bench.system.stage_in(replace(job, token=f"{RECORD}.1:u:1", workdir="/tmp"), lambda _: None)
    (end,) = bench.run(job)
    assert end.exit_value == 0, end
    assert (place / "open").read_text() == "open\n"
    home = tmp_path / "home"
    handle = bench.system.handle_for(job.token)
    assert bench.system.stage_out(handle, home, ["d/*.out", "[xo].out", "no.*"], lambda _: None) == ["no.*"]
    assert (home / "stdout").read_text() == "open\n" and (home / "outputs" / "d" / "n.out").stat().st_size > 1 << 17
    assert (home / "outputs" / "o.out").read_text() == "open\n"
    assert '"exit_value":0' in (home / "run").read_text()
    with pytest.raises(StageFailed, match="Permission denied"):
        bench.system.stage_out(handle, home, ["*.out"], lambda _: None)
    (end,) = bench.run(bench.sh("v", f"ln -s {place}/secret error; exit 1"))
    assert end.message is None
    with pytest.raises(StageFailed, match="Permission denied"):
        bench.system.stage_out(bench.system.handle_for(f"{RECORD}.1:v:1"), tmp_path / "v", [], lambda _: None)
    assert (tmp_path / "v" / "stdout").exists()  # what can be brought has come
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "run" and "secret" in p.read_text()]


def test_without_guard_and_runner_it_is_still_found_and_killed(bench: AsBench) -> None:
    """Nobody is left who waits for it: what looks at it is a login that may not even see its environment."""
    users = bench.there.users
    bench.submit(bench.sh("o", ESCAPES))
    bench.until(lambda: (bench.run_folder("o") / "up").exists() if bench.starts else False)
    handle = bench.system.handle_for(f"{RECORD}.1:o:1")
    stop(bench)
    look = bench.another().status([handle])[handle]
    assert look.state is NativeState.RUNNING and look.alive, look
    assert bench.another().settle([Launch(token=f"{RECORD}.1:o:1", handle=handle)]) == {f"{RECORD}.1:o:1": handle}
    until = time.monotonic() + 20
    while not bench.system.kill([handle], force=True)[handle]:
        assert time.monotonic() < until
    assert processes({users.uid(users.ann)}) == []


def test_another_users_process_with_its_token_does_not_hold_it(there: There, tmp_path: Path) -> None:
    """Words can be read in the process list, and a setuid program that asks for a password is root's."""
    users = there.users
    bench = AsBench(tmp_path, there.options(users.work, run_as=SUDO), there, users.work)
    token = f"{RECORD}.1:held:1"
    handle = bench.system.handle_for(token)
    switch = ["setpriv", "--reuid", users.bob, "--regid", users.bob, "--init-groups", "--", "setsid"]
    bob = None
    try:
        bench.submit(bench.sh("held", "sleep 60"))
        bench.until(lambda: token in bench.starts)
        bob = subprocess.Popen(
            [*switch, "su", users.ann, "-c", "true", token],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.5)
        until = time.monotonic() + 10
        while not bench.system.kill([handle], force=True)[handle]:
            assert time.monotonic() < until
        bench.until(lambda: token in bench.ends)
        assert bob.poll() is None
    finally:
        if bob is not None:
            bob.kill()
            bob.communicate()
        bench.system.kill([handle], force=True)
        for system in bench.made:
            system.close()
        for path in (there.far / users.work / "spool").glob("*/jobs/*"):
            shutil.rmtree(path)


def stop(bench: AsBench) -> None:
    """Kill guard and runner of this login at once."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(bench.there.far / bench.login) in words and (
                b"systems.guard" in words or b"systems.runner" in words
            ):
                pids.append(int(entry.name))
    assert len(pids) >= 2
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
