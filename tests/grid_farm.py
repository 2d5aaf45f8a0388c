"""A Grid Engine of one machine: qmaster and execd in a folder of its own, unprivileged ports, jobs of root.

    with grid() as cell:                          # root
        GridEngineSystem.build("grid", {"env": cell.env, "path": cell.path}, spool)
        cell.kill("qmaster"); cell.start("qmaster")

Both daemons run in the foreground, as our children. Debian's packages bring the programs; the cell that they make is
left alone. Several run beside one another: folder and ports are each one's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from farm import Missing, free_port, need

BIN = Path("/usr/lib/gridengine")  # the programs themselves; those in /usr/bin first look for Debian's own cell
SHARE = Path("/usr/share/gridengine")
LIBRARY = Path("/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0")
PACKAGES = {"sge_qmaster": "gridengine-master", "sge_execd": "gridengine-exec", "qsub": "gridengine-client"}
SLOTS = 64  # of the queue: jobs of tests mostly sleep
PE = {
    "slots": "999",
    "user_lists": "NONE",
    "xuser_lists": "NONE",
    "start_proc_args": "NONE",
    "stop_proc_args": "NONE",
    "allocation_rule": "$pe_slots",
    "control_slaves": "FALSE",
    "job_is_first_task": "TRUE",
    "urgency_slots": "min",
    "accounting_summary": "FALSE",
    "qsort_args": "NONE",
}
BOOTSTRAP = f"""\
admin_user none
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params {{folder}}/db
binary_path {BIN}
qmaster_spool_dir {{folder}}/qmaster
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""


class Grid:
    """One cell and its daemons."""

    def __init__(self, settings: Sequence[tuple[str, str]] = ()) -> None:
        """``settings``: lines of the global configuration (sge_conf(5)), in place of ours."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"jobmill-grid-{os.getpid()}-", dir="/tmp"))
        self.host = socket.gethostname()
        self.settings = dict(settings)
        self.path = f"{BIN}:{os.environ.get('PATH', os.defpath)}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.env = {
            "SGE_ROOT": str(self.folder),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(free_port()),
            "SGE_EXECD_PORT": str(free_port()),
        }

    def command(self, *words: str, check: bool = True) -> str:
        """Run one of Grid Engine's commands."""
        env = os.environ | {"PATH": self.path} | self.env
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def up(self) -> None:
        """Start all of it."""
        self.folder.chmod(0o755)
        common = self.folder / "default" / "common"
        for name in ("default/common", "qmaster/job_scripts", "execd", "db", "log"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "util").symlink_to(SHARE / "util")
        (common / "bootstrap").write_text(BOOTSTRAP.format(folder=self.folder))
        (common / "act_qmaster").write_text(f"{self.host}\n")
        # the reverse of 127.0.0.1 is `localhost`, which Grid Engine refuses as a host
        (common / "host_aliases").write_text(f"{self.host} localhost\n")
        self._first()
        self.start("qmaster")
        for option in ("-ah", "-as"):
            self.command("qconf", option, self.host, check=False)
        self.start("execd")
        self._configure()
        self.until(lambda: "lx-" in self.command("qstat", "-f", check=False))

    def start(self, name: str) -> None:
        """Start `qmaster` or `execd`, and wait until it is there."""
        with (self.folder / "log" / name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [BIN / f"sge_{name}"],
                env={"PATH": os.defpath, "SGE_ND": "1"} | self.env,  # SGE_ND: in the foreground
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        if name == "qmaster":
            self.until(lambda: bool(self.command("qconf", "-sconf", check=False)))

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one daemon; the jobs, and the shepherd of each, go on."""
        process = self.running.pop(name)
        process.send_signal(number)
        process.wait(30)

    def down(self) -> None:
        """End jobs and daemons, and remove the folder."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            if len(self.running) == 2:
                self.empty()
        for process in self.running.values():  # asked to end, the qmaster takes nine seconds, for nothing that we need
            process.kill()
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def empty(self) -> None:
        """Delete all that is there, and wait for its end."""
        self.command("qdel", "-u", "*", check=False)
        forced = time.monotonic() + 15.0  # of a job that was on its way when a daemon was killed nobody knows the end

        def gone() -> bool:
            if time.monotonic() > forced:
                self.command("qdel", "-f", "-u", "*", check=False)
            return not self.command("qstat", "-u", "*", check=False).strip()

        self.until(gone)

    def change(self, **values: str) -> None:
        """Set lines of the global configuration."""
        self._rewrite("-sconf", "-Mconf", "global", values)

    def queue(self, **values: str) -> None:
        """Set lines of the queue's configuration (sge_queue_conf(5))."""
        for name, value in values.items():
            self.command("qconf", "-rattr", "queue", name, value, "all.q")

    def until(self, true: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for something of the cell."""
        until = time.monotonic() + seconds
        while not true():
            if time.monotonic() > until:
                logs = [
                    self.folder / "log" / "qmaster",
                    self.folder / "log" / "execd",
                    self.folder / "qmaster/messages",
                ]
                told = [f"{it.name}: {it.read_text(errors='replace')[-600:]}" for it in logs if it.exists()]
                told.append(self.command("qstat", "-f", check=False))
                raise AssertionError("the Grid Engine of the tests did not come:\n" + "\n".join(told))
            time.sleep(0.1)

    def _first(self) -> None:
        """Fill the data base of a new cell."""
        conf = self.folder / "configuration"
        values = {"execd_spool_dir": str(self.folder / "execd"), "min_uid": "0", "min_gid": "0"}
        values |= {"load_report_time": "00:00:01", "finished_jobs": "0", "max_unheard": "00:00:05"}
        values["reporting_params"] = (
            "accounting=true reporting=false flush_time=00:00:01 accounting_flush_time=00:00:01 joblog=false "
            "sharelog=00:00:00"
        )
        conf.write_text(_with((SHARE / "default-configuration").read_text(), values | self.settings))
        resources = SHARE / "util" / "resources"
        self.command(str(BIN / "spoolinit"), "berkeleydb", "libspoolb", str(self.folder / "db"), "init")
        for words in (
            ("configuration", str(conf)),
            ("complexes", str(resources / "centry")),
            ("usersets", str(resources / "usersets")),
            ("managers", "root"),
        ):
            self.command(str(BIN / "spooldefaults"), *words)

    def _configure(self) -> None:
        """Let the scheduler act at once, and make a queue with room."""
        load = {"job_load_adjustments": "NONE", "load_adjustment_decay_time": "0:0:0"}
        at_once = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
        self._rewrite("-ssconf", "-Msconf", "scheduler", at_once | load)
        self._give("-Ahgrp", "hosts", f"group_name @allhosts\nhostlist {self.host}\n")
        for name in ("smp", "mpi"):
            values = "".join(f"{key} {value}\n" for key, value in PE.items())
            self._give("-Ap", name, f"pe_name {name}\n{values}")
        values = {"qname": "all.q", "hostlist": "@allhosts", "slots": str(SLOTS), "load_thresholds": "NONE"}
        values |= {"pe_list": "smp mpi", "shell": "/bin/sh", "notify": "00:00:10"}
        self._rewrite("-sq", "-Aq", "queue", values)

    def _rewrite(self, show: str, give: str, name: str, values: dict[str, str]) -> None:
        env = os.environ | {"PATH": self.path, "SGE_SINGLE_LINE": "1"} | self.env
        done = subprocess.run(["qconf", show], env=env, capture_output=True, text=True, timeout=30, check=True)
        self._give(give, name, _with(done.stdout, values))

    def _give(self, option: str, name: str, text: str) -> None:
        file = self.folder / name
        file.write_text(text)
        self.command("qconf", option, str(file))


def _with(text: str, values: dict[str, str]) -> str:
    """Return ``name value`` lines with other values; a name that is not there is an error."""
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^{name}\s.*$", lambda _, line=f"{name} {value}": line, text)  # type: ignore[misc]
        assert count == 1, f"{name} is in the configuration {count} times"
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))


@contextlib.contextmanager
def grid(settings: Sequence[tuple[str, str]] = ()) -> Iterator[Grid]:
    """Give a cell; raises Missing where none can be started."""
    provide()
    made = Grid(settings)
    try:
        made.up()
        yield made
    finally:
        made.down()


def provide() -> None:
    """Install what is missing; raise Missing where that cannot be."""
    if os.geteuid() != 0:
        raise Missing("sge_execd is started by root: run the tests as root, in a container for example")
    lacking = {f"/{name}": package for name, package in PACKAGES.items() if not (BIN / name).exists()}
    if not LIBRARY.exists():
        lacking["/libdrmaa"] = "gridengine-drmaa1.0"
    if lacking:
        with contextlib.suppress(Missing):  # these are no programs on PATH
            need(lacking)
    lacks = [package for name, package in PACKAGES.items() if not (BIN / name).exists()]
    lacks += [] if LIBRARY.exists() else ["gridengine-drmaa1.0"]
    if lacks:
        raise Missing(f"not on this machine; as root: apt-get install {' '.join(lacks)}")


def main() -> int:
    """Install what is missing; say what is there, and exit with 1 when CI lacks it."""
    try:
        provide()
    except (Missing, subprocess.SubprocessError) as error:
        print(f"gridengine missing: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    print(f"gridengine {BIN / 'sge_qmaster'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
