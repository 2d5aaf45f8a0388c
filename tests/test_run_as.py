"""Jobs that run as their users: real accounts, real sudo and setpriv."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accounts import Accounts, accounts, processes
from farm import Missing
from test_local_system import Bench, _end
from test_runner import FAR_SIDE, ROOT, old_pythons, records, talk
from tokens import RECORD

from jobmill.errors import ConfigError, StageFailed
from jobmill.systems import identity, run_folder
from jobmill.systems.local import LocalSystem
from jobmill.systems.run_as import RunAs
from jobmill.systems.system import NativeState, Submission, SubmitError, SubmitFailure, Transfer

pytestmark = pytest.mark.timeout(90)

SUDO = ["sudo", "-n", "-u", "{user}", "-H", "--"]
SETPRIV = ["setpriv", "--reuid", "{user}", "--regid", "{group}", "--init-groups", "--"]
WORDS = {"sudo": SUDO, "setpriv": SETPRIV}


@pytest.fixture(scope="module")
def users() -> Iterator[Accounts]:
    try:
        with accounts() as made:
            yield made
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


class AsBench(Bench):
    """A local system whose jobs are ann's, unless they say otherwise."""

    def __init__(self, users: Accounts, spool: Path, **options: Any) -> None:
        super().__init__(spool, **options)
        self.users = users

    def job(self, name: str, *argv: str, run: int = 1, record: str = RECORD, **fields: Any) -> Submission:
        return super().job(name, *argv, run=run, record=record, **{"user": self.users.ann, **fields})

    def refused(self, **fields: Any) -> str:
        """Return why a job never begins, whoever says so."""
        number = len(self.ends) + len(list((self.spool / "jobs").glob("*")))
        job = self.sh(f"no{number}", "id > " + str(self.spool.parent / "ran"), **fields)
        answer = self.system.submit([job])[0]
        if isinstance(answer, SubmitError):
            assert answer.failure is SubmitFailure.PERMANENT
            assert not (self.spool / "jobs" / job.job_id).exists()
            return answer.message
        self.until(lambda: job.token in self.ends)
        end = self.ends[job.token]
        assert end.exit_status == "aborted_before_running", end
        assert not (self.spool.parent / "ran").exists()
        return f"{end.reason}: {end.message}"


@pytest.fixture(params=["setpriv", "sudo"])
def bench(request: pytest.FixtureRequest, users: Accounts) -> Iterator[AsBench]:
    folder = users.folder / f"t{time.monotonic_ns()}"
    folder.mkdir(0o755)
    it = AsBench(users, folder / "spool", run_as=WORDS[request.param])
    yield it
    _end(it)


def test_a_job_is_its_users(bench: AsBench, users: Accounts) -> None:
    text = (
        "id -un; id -gn; id -Gn; echo $HOME $USER $LOGNAME; pwd; echo $JOBMILL_JOB_ID $X; cat note; touch made;"
        "echo err >&2; echo why > $JOBMILL_ERROR_FILE; echo 1 > $JOBMILL_RETURN_FILE;"
        "grep -E '^Cap(Eff|Prm)' /proc/self/status; grep SigIgn /proc/self/status; ls -l /proc/self/fd | wc -l; exit 3"
    )
    (end,) = bench.run(bench.sh("a", text, env={"X": "é \udcff"}, files={"note": "n\n"}))
    folder = bench.folder("a")
    lines = (folder / "stdout").read_bytes().splitlines()
    ann, home = users.ann.encode(), str(users.folder / users.ann).encode()
    assert lines[:5] == [ann, ann, ann, b" ".join((home, ann, ann)), str(folder).encode()], lines
    assert lines[5:7] == [b"a " + "é ".encode() + b"\xff", b"n"]
    assert [line.split()[1] for line in lines[7:9]] == [b"0" * 16, b"0" * 16]
    assert (
        int(lines[9].split()[1], 16) & 0x7FFFFFFF == 0 and lines[10] == b"5"
    )  # 0 1 2, that of ls, and the line of the total
    assert (folder / "stderr").read_text() == "err\n"
    assert (end.exit_value, end.message) == (3, "why"), end
    assert end.resource_usage["max_memory"] > 0
    for name in ("stdout", "stderr", "note", "made", "error", "return.json"):
        assert (folder / name).stat().st_uid == users.uid(users.ann), name
    for path in (folder, folder / "run"):
        assert path.stat().st_uid == 0
    assert not (folder / "switch").exists()
    assert bench.system.logs(bench.system.handle_for(f"{RECORD}:a:1"), "stdout", 0) == (folder / "stdout").read_bytes()


def test_exit_values_signals_and_usage_are_true(bench: AsBench) -> None:
    texts = {
        "zero": "exit 0",
        "seven": "exit 7",
        "high": "exit 200",
        "kill": "kill -9 $$",
        "term": "kill -15 $$",
        "segv": "kill -11 $$",
        "pipe": "kill -13 $$",
        "spin": "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    }
    ends = dict(zip(texts, bench.run(*[bench.sh(name, text) for name, text in texts.items()]), strict=True))
    told = {name: (end.exit_value, end.term_sig) for name, end in ends.items()}
    assert told == {
        "zero": (0, None),
        "seven": (7, None),
        "high": (200, None),
        "kill": (None, 9),
        "term": (None, 15),
        "segv": (None, 11),
        "pipe": (None, 13),
        "spin": (0, None),
    }
    assert ends["spin"].resource_usage["cpu"] > ends["zero"].resource_usage["cpu"] + 0.05


def test_what_cannot_start_says_why(bench: AsBench, users: Accounts) -> None:
    closed = users.folder / users.bob  # bob's home, 0700
    ends = bench.run(
        bench.job("none", "no-such-program"),
        bench.job("denied", "/etc/passwd"),
        bench.sh("workdir", "pwd", workdir=str(closed)),
        bench.sh("null", "true", workdir="/a\0b"),
        bench.sh("home", "pwd", workdir="~"),
    )
    none, denied, workdir, null, home = ends
    assert (none.reason, none.exit_value) == ("start_failed", 127) and "no-such-program" in str(none.message)
    assert (denied.reason, denied.exit_value) == ("start_failed", 126)
    assert workdir.reason == "start_failed" and "cannot enter the working directory" in str(workdir.message)
    assert null.reason == "start_failed"
    assert home.exit_value == 0
    assert (bench.folder("home") / "stdout").read_text().strip() == str(users.folder / users.ann)


@pytest.mark.parametrize(
    "user",
    [
        None,
        "",
        "root",
        "no body",
        "-u root",
        "-uroot",
        "#0",
        "#1000",
        "0",
        "1000",
        ":",
        "a:b",
        "%sudo",
        "ALL",
        "root\n",
        "ann\0",
        "../root",
        "nobody_there",
        "é",
        "$(id)",
        "ＡＮＮ",
    ],
)
def test_users_that_are_refused(bench: AsBench, user: str | None) -> None:
    assert "user" in bench.refused(user=user)


def test_root_by_another_name_and_system_accounts_are_refused(bench: AsBench, users: Accounts) -> None:
    assert "is root" in bench.refused(user=users.twin)
    assert "below run_as_least_uid" in bench.refused(user=users.service)
    assert "submit_failed" in bench.refused(user=users.service)


def test_a_list_of_users_bounds_who_may(users: Accounts, bench: AsBench) -> None:
    bench.system.run_as = RunAs.of({"run_as": SUDO, "run_as_users": [users.bob]}, "x")
    assert "not among run_as_users" in bench.refused()
    assert bench.run(bench.sh("bob", "id -un", user=users.bob))[0].exit_value == 0
    bench.system.run_as = RunAs.of({"run_as": SUDO, "run_as_least_uid": 4_000_000}, "x")
    assert "below run_as_least_uid" in bench.refused()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["env", "X={user}"], "gave uid 0"),
        (["setpriv", "--reuid", "{uid}", "--keep-groups", "--"], "left group 0"),
        (["sudo", "-n", "-u", "{user}", "-g", "root", "--"], "left group 0"),
        (["sudo", "-n", "-u", "{user}x", "--"], "could not switch"),
        (["no-such-switch", "{user}"], "no-such-switch"),
        (["false", "{user}"], ""),
    ],
)
def test_words_that_do_not_switch_start_nothing(users: Accounts, bench: AsBench, words: list[str], says: str) -> None:
    bench.system.run_as = RunAs.of({"run_as": words}, "x")
    ran = bench.spool.parent / "ran"
    (end,) = bench.run(bench.sh("a", f"id > {ran}"))
    assert not ran.exists() and end.exit_value != 0, end
    assert says in str(end.message), end


def test_the_environment_of_a_job_is_not_the_switchs(bench: AsBench, users: Accounts, tmp_path: Path) -> None:
    """LD_PRELOAD and PATH of a job are its own affair: sudo and setpriv never see them."""
    trap = bench.spool.parent / "trap"
    trap.mkdir(mode=0o755)
    ran = bench.spool.parent / "trapped"
    for name in ("sudo", "setpriv", "python3", "sh"):
        (trap / name).write_text(f"#!/bin/sh\nid >> {ran}\n")
        (trap / name).chmod(0o755)
    env = {"PATH": f"{trap}:/usr/bin:/bin", "LD_PRELOAD": str(trap / "no.so"), "PYTHONPATH": str(trap)}
    env |= {"SUDO_ASKPASS": str(trap / "sh"), "PYTHONSTARTUP": str(trap / "sh"), "IFS": "x", "BASH_ENV": "y"}
    (end,) = bench.run(bench.job("a", "/usr/bin/env", env=env))
    said = (bench.folder("a") / "stdout").read_text()
    assert end.exit_value == 0 and not ran.exists()
    assert all(f"{key}={value}\n" in said for key, value in env.items())
    assert "SUDO_" not in said.replace("SUDO_ASKPASS", "")
    assert "no.so" in (bench.folder("a") / "stderr").read_text()  # the loader's complaint is the job's own


def test_streams_are_opened_as_the_user(bench: AsBench, users: Accounts) -> None:
    place = bench.spool.parent
    secret = place / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    shared = place / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "planted").symlink_to(secret)
    home = users.folder / users.ann
    (home / "o").unlink(missing_ok=True)
    jobs = [
        bench.sh("in", "cat", stdin=str(secret)),
        bench.sh("out", "echo x", stdout=str(secret)),
        bench.sh("err", "echo x", stderr=str(shared / "planted")),
        bench.sh("dir", "echo x", stdout="/etc/jobmill-was-here"),
    ]
    for end, key in zip(bench.run(*jobs), ("stdin", "stdout", "stderr", "stdout"), strict=True):
        assert end.reason == "start_failed" and f"cannot open {key}" in str(end.message), end
    assert secret.read_text() == "secret\n" and not Path("/etc/jobmill-was-here").exists()
    (good,) = bench.run(bench.sh("good", "cat; echo e >&2", stdin="/etc/hostname", stdout="~/o", stderr=f"{home}/o"))
    assert good.exit_value == 0, good
    assert (home / "o").read_text() == Path("/etc/hostname").read_text() + "e\n"
    assert (home / "o").stat().st_uid == users.uid(users.ann)
    log = bench.system.logs(bench.system.handle_for(f"{RECORD}:good:1"), "stdout", 0)
    assert log == (home / "o").read_bytes()  # read as that user, through the link that shows where it went


def test_a_job_cannot_forge_its_record(bench: AsBench, users: Accounts) -> None:
    """The run folder is the user's to use, and not to own."""
    tries = (
        "mv run run.old; rm -f run; ln -sf x run; echo 'exit 1 {} end' >> run; echo x > run; chmod 777 . run;"
        "mv ../run.1 ../run.0; rmdir ..; touch ../x; ln run hard; rm -f switch; setfacl -b . ; cat run > copy;"
        "sleep 0.2; exit 5"
    )
    (end,) = bench.run(bench.sh("a", tries))
    folder = bench.folder("a")
    assert end.exit_value == 5
    found = run_folder.read(os.fsencode(folder))
    assert found is not None and found.end is not None and '"exit_value":5' in found.end
    assert (folder / "run").stat().st_uid == 0 and (folder / "run").stat().st_nlink == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["run.1"]
    assert found.switch is not None and found.switch[2] == users.ann
    assert (folder / "copy").read_text().startswith(f"jobmill 1 {RECORD}:a:1")


def test_links_that_a_job_leaves_lead_nobody_anywhere(bench: AsBench, users: Accounts) -> None:
    """We may read what its user may not: what it puts in place of its files is not followed."""
    secret = bench.spool.parent / "secret"
    secret.write_text("started 1/2 secret now\n")
    secret.chmod(0o600)
    text = f"rm stdout; for f in stdout error steps return.json; do ln -s {secret} $f; done; mkfifo fifo; exit 1"
    (end,) = bench.run(bench.sh("a", text))
    assert end.exit_value == 1 and end.message is None
    handle = bench.system.handle_for(f"{RECORD}:a:1")
    for name in ("stdout", "error", "steps", "return.json", "fifo"):
        try:
            assert bench.system.logs(handle, name, 0) == b"", name
        except OSError as error:
            assert name == "fifo", error
    bench.submit(bench.sh("b", f"ln -s {secret} steps; sleep 1"))
    bench.until(lambda: (bench.folder("b") / "steps").is_symlink())
    look = next(iter(bench.system.status([bench.system.handle_for(f"{RECORD}:b:1")]).values()))
    assert look.state is NativeState.RUNNING and look.progress is None


def test_a_run_folder_is_its_users_and_nobody_elses(bench: AsBench, users: Accounts) -> None:
    bench.run(bench.sh("a", "echo mine; mkdir d; echo x > d/f; chmod 777 d d/f stdout"))
    folder = bench.folder("a")
    assert users.as_user(users.ann, "cat", f"{folder}/stdout", f"{folder}/d/f").stdout == "mine\nx\n"
    for words in (["ls", str(folder)], ["cat", f"{folder}/stdout"], ["cat", f"{folder}/d/f"], ["ls", f"{folder}/d"]):
        assert users.as_user(users.bob, *words).returncode != 0, words
    for path in (bench.spool, bench.spool / "jobs", folder.parent, bench.spool / "guards", bench.spool / "stage"):
        assert users.as_user(users.bob, "ls", str(path)).returncode != 0, path
    assert stat.S_IMODE(bench.spool.stat().st_mode) & 0o007 == 1


def test_folders_beside_it_are_closed_when_the_spool_opens(users: Accounts) -> None:
    folder = users.folder / f"t{time.monotonic_ns()}"
    folder.mkdir(0o755)
    (folder / "spool").mkdir(0o700)
    plain = Bench(folder / "spool")
    asthem = AsBench(users, folder / "spool", run_as=SETPRIV)
    asthem.system.name = "other"
    try:
        plain.run(plain.sh("before", "echo x"))
        asthem.run(asthem.sh("as", "echo x"))
        plain.run(plain.sh("after", "echo x"))
        for name in ("before", "after"):
            assert users.as_user(users.bob, "cat", str(plain.folder(name) / "stdout")).returncode != 0
    finally:
        _end(plain)
        _end(asthem)


def test_a_way_that_is_closed_is_named(users: Accounts, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    bench = AsBench(users, tmp_path / "spool", run_as=SUDO)
    try:
        (end,) = bench.run(bench.sh("a", "true"))
        assert end.reason == "start_failed" and "cannot enter" in str(end.message) and "chmod o+x" in str(end.message)
    finally:
        _end(bench)


def tree(users: Accounts) -> list[int]:
    """Return what ann runs, wherever it went."""
    return processes({users.uid(users.ann)})


ESCAPES = (
    "sleep 60 & setsid sleep 61 & (setsid env -i sleep 62 &); trap '' TERM; sleep 0.2; touch up;"
    " while :; do sleep 0.1; done"
)


def test_a_kill_reaches_all_and_proves_it(bench: AsBench, users: Accounts) -> None:
    bench.submit(bench.sh("a", ESCAPES))
    bench.until(lambda: (bench.folder("a") / "up").exists())
    handle = bench.system.handle_for(f"{RECORD}:a:1")
    assert len(tree(users)) >= 4
    assert bench.system.kill([handle], force=False)[handle] is False  # it ignores TERM
    until = time.monotonic() + 10
    while not bench.system.kill([handle], force=True)[handle]:
        assert time.monotonic() < until
    assert tree(users) == []
    bench.until(lambda: f"{RECORD}:a:1" in bench.ends)
    assert bench.ends[f"{RECORD}:a:1"].term_sig == 9


def test_the_walltime_ends_all(users: Accounts) -> None:
    for name, words in WORDS.items():
        folder = users.folder / f"t{time.monotonic_ns()}"
        folder.mkdir(0o755)
        bench = AsBench(users, folder / "spool", run_as=words, kill_grace=0.5)
        try:
            (end,) = bench.run(bench.sh("a", ESCAPES, walltime=1.0))
            assert end.reason == "timeout" and end.term_sig == 9, (name, end)
            assert tree(users) == []
        finally:
            _end(bench)


def test_a_runner_that_is_killed_loses_no_end(bench: AsBench, users: Accounts) -> None:
    bench.submit(bench.sh("a", "touch up; sleep 1; exit 4"), bench.sh("b", "sleep 0.1; rm -f error; exit 3"))
    bench.until(lambda: (bench.folder("a") / "up").exists())
    os.kill(bench.runner_pid(), signal.SIGKILL)
    bench.until(lambda: len(bench.ends) == 2)
    assert bench.ends[f"{RECORD}:a:1"].exit_value == 4 and bench.ends[f"{RECORD}:b:1"].exit_value == 3


def test_inputs_are_read_and_written_as_the_user(bench: AsBench, users: Accounts) -> None:
    place = bench.spool.parent
    tree = place / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "f").write_bytes(b"x" * (3 << 20))
    (tree / "g").write_text("g\n")
    (tree / "g").chmod(0o444)
    (tree / "link").symlink_to("g")
    secret = place / "secret"
    secret.write_text("secret\n")
    secret.chmod(0o600)
    wanted = (Transfer(source=str(tree), target="tree"),)
    job = bench.sh("a", "cat tree/g tree/link; wc -c < tree/deep/f; echo y >> tree/deep/f; rm -r tree", inputs=wanted)
    (end,) = bench.run(bench.system.stage_in(job, lambda _: None))
    assert end.exit_value == 0, (bench.folder("a") / "stderr").read_text()
    assert (bench.folder("a") / "stdout").read_text() == f"g\ng\n{3 << 20}\n" and not (
        bench.folder("a") / "tree"
    ).exists()

    def refused(**fields: Any) -> str:
        with pytest.raises(StageFailed) as caught:
            bench.system.stage_in(bench.sh("b", "true", **fields), lambda _: None)
        return str(caught.value)

    hidden = (Transfer(source=str(secret), target="x"),)
    assert "secret: Permission denied (as user" in refused(inputs=hidden)
    (tree / "planted").symlink_to(secret)
    assert "Permission denied" in refused(inputs=wanted)
    (tree / "planted").unlink()
    assert "Permission denied" in refused(inputs=wanted, workdir="/etc")
    assert not Path("/etc/tree").exists()
    assert "is no name of a user" in refused(inputs=wanted, user="-x")
    assert "is root" in refused(inputs=wanted, user=users.twin)
    home = users.folder / users.ann
    (end,) = bench.run(
        bench.system.stage_in(bench.sh("c", "cat tree/g", inputs=wanted, workdir=str(home)), lambda _: None)
    )
    assert end.exit_value == 0 and (home / "tree" / "g").stat().st_uid == users.uid(users.ann)


@pytest.mark.parametrize("python", old_pythons() or [sys.executable])
def test_it_runs_from_a_zip_on_the_oldest_python_here(users: Accounts, python: str) -> None:
    folder = users.folder / f"t{time.monotonic_ns()}"
    folder.mkdir(0o755)
    archive = folder / "jobmill.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in ("__init__", "systems/__init__", *(f"systems/{name}" for name in FAR_SIDE)):
            zipped.write(ROOT / f"jobmill/{name}.py", f"jobmill/{name}.py")
    order = {"user": users.ann, "template": SUDO, "least": 1000, "users": None}
    fields = [["/bin/sh", "-c", "id -un; exit 3"], None, {}, None, None, None, {}, 5, None, order]
    late = [["/bin/sh", "-c", "sleep 60 & sleep 60"], *fields[1:7], 0.5, None, order]
    commands = b"\nsync 0\nenv {}\nslots 2\n"
    commands += b"launch %s:a:1 1 %s\n" % (RECORD.encode(), json.dumps(fields).encode())
    commands += b"launch %s:b:1 1 %s\n" % (RECORD.encode(), json.dumps(late).encode())
    ends = records(talk(python, str(archive), folder / "spool", commands, 2))
    assert ends[f"{RECORD}:a:1"]["exit_value"] == 3 and ends[f"{RECORD}:b:1"]["reason"] == "timeout", ends
    assert (folder / "spool/jobs/a/run.1/stdout").read_text() == f"{users.ann}\n"
    assert tree(users) == []


def test_doctor_tells_whether_it_can_be(bench: AsBench, users: Accounts, tmp_path: Path) -> None:
    def look(spool: Path = bench.spool, **options: Any) -> tuple[bool, str]:
        system = LocalSystem.build("local", {"run_as": SUDO, **options}, spool)
        (found,) = [it for it in system.check() if it.name == "run_as"]
        return found.ok, f"{found.detail} {found.fix}"

    assert look(run_as_users=[users.ann])[0]
    assert look()[0]
    ok, words = look(run_as=["no-such-switch", "{user}"])
    assert not ok and "no-such-switch" in words
    ok, words = look(run_as=["env", "X={user}"], run_as_users=[users.ann])
    assert not ok and "gave uid 0" in words
    tmp_path.chmod(0o700)
    ok, words = look(tmp_path / "spool")
    assert not ok and "chmod o+x" in words


def test_a_switch_is_read_from_the_options() -> None:
    def build(**options: Any) -> None:
        LocalSystem.build("local", options, Path("/nowhere"))

    build(run_as=SUDO, run_as_least_uid=500, run_as_users=["ann"])
    for options, says in (
        ({"run_as": "sudo -u {user}"}, "a list of words"),
        ({"run_as": []}, "a list of words"),
        ({"run_as": ["sudo", 1]}, "a list of words"),
        ({"run_as": ["sudo", "-u", "ann"]}, "neither {user} nor {uid}"),
        ({"run_as": ["sudo", "{usr}"]}, "{usr} is none of"),
        ({"run_as": ["{home}/sudo", "{user}"]}, "must be a program"),
        ({"run_as": SUDO, "run_as_least_uid": 0}, "whole number from 1"),
        ({"run_as": SUDO, "run_as_users": "ann"}, "list of names"),
        ({"run_as": SUDO, "run_as_users": ["-x"]}, "no name of a user"),
        ({"run_as_users": ["ann"]}, "no run_as beside it"),
    ):
        with pytest.raises(ConfigError, match=r"systems\.local\.run_as") as caught:
            build(**options)
        assert says in str(caught.value)


def test_fields_are_filled_in(users: Accounts) -> None:
    who = identity.find({"user": users.ann, "template": []})
    words = identity.prefix(["x", "{user}:{uid}", "{gid}", "{group}", "{home}", "{}"[:1]], who)
    uid = str(users.uid(users.ann))
    assert words == ["x", f"{users.ann}:{uid}", str(who.gid), users.ann, who.home, "{"]
