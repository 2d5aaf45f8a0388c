"""A Slurm cluster of one machine: private munge, slurmctld and nodes in a folder of its own, slurmdbd where wanted.

    with slurm(books=True) as cluster:          # root
        SlurmSystem.build("slurm", {"env": cluster.env}, spool)
        cluster.kill("slurmctld"); cluster.start("slurmctld")

Every daemon runs in the foreground, as our child. All nodes are this machine, each with ports and a spool of its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from farm import PATH, Missing, free_port, need

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
}
PLUGIN = "slurm-wlm-mysql-plugin"  # of slurmdbd
LIBRARIES, PLUGIN_FILE = Path("/usr/lib"), "*/slurm-wlm/accounting_storage_mysql.so"
MEMORY = Path("/sys/fs/cgroup/memory")
CGROUPS = f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={MEMORY.parent}"
CPUS = 64  # of a node: jobs of tests mostly sleep


class Slurm:
    """The cluster and its daemons."""

    def __init__(
        self, *, nodes: int = 1, books: bool = False, cgroups: bool = False, settings: Sequence[str] = ()
    ) -> None:
        """``cgroups``: memory is enforced; ``settings``: lines for slurm.conf, before ours."""
        # not below pytest's folders: munged looks at the way to its files, and every user passes here
        self.folder = Path(tempfile.mkdtemp(prefix=f"jobmill-slurm-{os.getpid()}-", dir="/tmp"))
        self.host = socket.gethostname().split(".")[0]
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.books, self.cgroups = books, cgroups
        self.settings = settings
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {name: free_port() for name in ("slurmctld", "slurmdbd", *self.nodes)}

    @property
    def conf(self) -> Path:
        """The slurm.conf."""
        return self.folder / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """What Slurm's commands need to find it."""
        return {"SLURM_CONF": str(self.conf)}

    def command(self, *words: str, check: bool = True) -> str:
        """Run one of Slurm's commands."""
        env = os.environ | {"PATH": PATH} | self.env
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=False)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def up(self) -> None:
        """Start all of it."""
        self.folder.chmod(0o755)
        for name in ("state", "log", "munge", *(f"spool-{node}" for node in self.nodes)):
            (self.folder / name).mkdir()
        self._munge()
        if self.books:
            self._database()
        self._configure()
        if self.books:
            self.start("slurmdbd")
            self.until(lambda: bool(self.command("sacctmgr", "-n", "show", "cluster", check=False)) or self._listed())
            self.command("sacctmgr", "-i", "add", "cluster", "it", check=False)
        self.start("slurmctld")
        for node in self.nodes:
            self.start(node)
        idle = len(self.nodes)
        self.until(lambda: self.command("sinfo", "-hN", "-p", "debug", "-o", "%T", check=False).count("idle") == idle)

    def start(self, name: str) -> None:
        """Start slurmctld, slurmdbd, or a node by its name."""
        words = {
            "slurmctld": ["slurmctld", "-D", "-f", str(self.conf)],
            "slurmdbd": ["slurmdbd", "-D"],
        }.get(name, ["slurmd", "-D", "-f", str(self.conf), "-N", name])
        # libmariadb takes its socket's path from these
        database = {key: str(self.folder / "mysql" / "s") for key in ("MYSQL_UNIX_PORT", "MARIADB_UNIX_PORT")}
        self._spawn(name, words, self.env | database)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one daemon."""
        process = self.running.pop(name)
        process.send_signal(number)
        process.wait(30)

    def down(self) -> None:
        """End jobs and daemons, and remove the folder."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired, AttributeError):
            if "slurmctld" in self.running:  # jobs outlive slurmd
                self.empty()
        for name in [*self.nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            if name in self.running:
                process = self.running.pop(name)
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def saved(self) -> None:
        """Wait until slurmctld has written down what it knows now: what it has not is lost when it is killed."""
        file, now = self.folder / "state" / "job_state", time.time()
        self.until(lambda: file.exists() and file.stat().st_mtime > now + 0.5)

    def empty(self) -> None:
        """Cancel all that is there, and wait for its end."""
        self.command("scancel", f"--user={os.getuid()}", check=False)
        self.until(lambda: not self.command("squeue", "-h", check=False).strip(), 20)

    def until(self, true: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for something of the cluster."""
        until = time.monotonic() + seconds
        while not true():
            if time.monotonic() > until:
                logs = [f"{it.name}: {it.read_text(errors='replace')[-600:]}" for it in (self.folder / "log").iterdir()]
                raise AssertionError("the Slurm of the tests did not come:\n" + "\n".join(logs))
            time.sleep(0.1)

    def _listed(self) -> bool:
        """Tell whether slurmdbd answers at all: it may know of no cluster yet."""
        words = ["sacctmgr", "-n", "show", "cluster"]
        env = os.environ | {"PATH": PATH} | self.env
        return subprocess.run(words, env=env, capture_output=True, timeout=30, check=False).returncode == 0

    def _spawn(self, name: str, words: Sequence[str], env: dict[str, str], user: str | None = None) -> None:
        program = shutil.which(words[0], path=PATH) or words[0]
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [program, *words[1:]],
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )

    def _munge(self) -> None:
        """Start a munged with a key of its own, as its own user: it refuses files that others could write."""
        folder = self.folder / "munge"
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        user = pwd.getpwnam("munge")
        for path in (folder, folder / "key"):
            os.chown(path, user.pw_uid, user.pw_gid)
        folder.chmod(0o755)
        files = {"socket": "sock", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        words = [f"--{option}={folder / name}" for option, name in files.items()]
        self._spawn("munged", ["munged", "--foreground", "--force", "--num-threads=2", *words], {}, "munge")
        self.until(lambda: (folder / "sock").exists())

    def _database(self) -> None:
        """Start a MariaDB with one socket and no network."""
        folder = self.folder / "mysql"
        folder.mkdir()
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "mysql" if "mysql" in known else "root"
        shutil.chown(folder, user)
        common = ["--no-defaults", f"--user={user}", f"--datadir={folder}"]
        subprocess.run(
            ["mariadb-install-db", *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            capture_output=True,
            timeout=60,
            check=True,
        )
        sizes = ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
        words = ["mariadbd", *common, f"--socket={folder}/s", "--skip-networking", f"--pid-file={folder}/pid", *sizes]
        self._spawn("mariadbd", words, {})
        self.until(lambda: (folder / "s").exists())
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={self.folder}/munge/sock\nDbdHost={self.host}\nDbdAddr=127.0.0.1\n"
            f"DbdPort={self.ports['slurmdbd']}\nSlurmUser=root\nStorageType=accounting_storage/mysql\n"
            f"StorageHost=localhost\nStorageUser=root\nStorageLoc=slurm_acct\nLogFile={self.folder}/log/slurmdbd.log\n"
            f"PidFile={self.folder}/slurmdbd.pidfile\n"
        )
        conf.chmod(0o600)

    def _configure(self) -> None:
        books = ["AccountingStorageType=accounting_storage/none"]
        if self.books:
            books = [
                "AccountingStorageType=accounting_storage/slurmdbd",
                "AccountingStorageHost=127.0.0.1",
                f"AccountingStoragePort={self.ports['slurmdbd']}",
                f"AccountingStoragePass={self.folder}/munge/sock",
            ]
        # not linuxproc: in 22.05 its look at /proc crashes slurmstepd on a busy machine
        processes = ["ProctrackType=proctrack/pgid", "TaskPlugin=task/none"]
        if self.cgroups:
            processes = ["ProctrackType=proctrack/cgroup", "TaskPlugin=task/cgroup"]
            (self.folder / "cgroup.conf").write_text(f"{CGROUPS}\nConstrainRAMSpace=yes\n")
        common = f"NodeHostname={self.host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory=16000 State=UNKNOWN"
        lines = [
            *self.settings,
            "ClusterName=it",
            f"SlurmctldHost={self.host}(127.0.0.1)",
            *("SlurmUser=root", "SlurmdUser=root", "AuthType=auth/munge", "CredType=cred/munge"),
            f"AuthInfo=socket={self.folder}/munge/sock",
            f"SlurmctldPort={self.ports['slurmctld']}",
            f"SlurmctldPidFile={self.folder}/slurmctld.pidfile",
            f"SlurmdPidFile={self.folder}/slurmd-%n.pidfile",
            f"SlurmctldLogFile={self.folder}/log/slurmctld.log",
            f"SlurmdLogFile={self.folder}/log/slurmd-%n.log",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool-%n",
            *("MpiDefault=none", "SwitchType=switch/none", *processes),
            *("JobAcctGatherType=jobacct_gather/linux", "JobAcctGatherFrequency=1", "SchedulerType=sched/backfill"),
            "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1",
            *("SelectType=select/cons_tres", "SelectTypeParameters=CR_CPU_Memory", "DefMemPerCPU=10"),
            *("SlurmdParameters=config_overrides", "ReturnToService=2", "KillWait=2", "SlurmctldTimeout=30"),
            *("SlurmdTimeout=30", *books),
            *(f"NodeName={node} Port={self.ports[node]} {common}" for node in self.nodes),
            "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        self.conf.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def slurm(
    *, nodes: int = 1, books: bool = False, cgroups: bool = False, settings: Sequence[str] = ()
) -> Iterator[Slurm]:
    """Give a cluster; raises Missing where none can be started."""
    provide()
    if cgroups:
        _memory_cgroups()
    made = Slurm(nodes=nodes, books=books, cgroups=cgroups, settings=settings)
    try:
        made.up()
        yield made
    finally:
        made.down()


def _memory_cgroups() -> None:
    """Raise Missing where the kernel gives us no memory cgroups of version 1: nothing that could be installed."""
    tried = MEMORY / f"jobmill-{os.getpid()}"
    try:
        tried.mkdir()
        tried.rmdir()
    except OSError as error:
        raise Missing(f"no cgroup can be made in {MEMORY}: {error.strerror}") from error


def provide() -> None:
    """Install what is missing; raise Missing where that cannot be."""
    if os.geteuid() != 0:
        raise Missing("slurmd is started by root: run the tests as root, in a container for example")
    need(PROGRAMS)
    with contextlib.suppress(Missing):  # its only file is a library and no program
        if not list(LIBRARIES.glob(PLUGIN_FILE)):
            need({f"/{PLUGIN}": PLUGIN})
    if not list(LIBRARIES.glob(PLUGIN_FILE)):
        raise Missing(f"not on this machine; as root: apt-get install {PLUGIN}")


def main() -> int:
    """Install what is missing; say what is there, and exit with 1 when CI lacks it."""
    try:
        provide()
    except (Missing, subprocess.SubprocessError) as error:
        print(f"slurm    missing: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    print(f"slurm    {shutil.which('slurmctld', path=PATH)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
