"""Provides container engines for the tests: Debian's Docker, started by hand, and podman, each with folders of its own.

    docker      dockerd and the docker CLI; root installs them with apt where they are missing
    podman      likewise; no daemon, nothing listens
    images      without a registry: made of what this machine has (`images`)

Nothing of an engine that the machine may have is touched. ``python tests/engines.py`` installs what is missing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import images
import pytest

PACKAGES = ("docker.io", "iptables", "busybox-static", "docker-compose")
PROGRAMS = ("dockerd", "docker", "containerd", "busybox")
PODMAN_PACKAGES = ("podman", "runc", "catatonit", "busybox-static")
PODMAN_PROGRAMS = ("podman", "conmon", "runc", "catatonit", "busybox")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
IMAGE = "jobmill-test/busybox:1"
FIX = f"as root: apt-get install --no-install-recommends {' '.join(PACKAGES)} (`python tests/engines.py` does it)"

PODMAN_FIX = (
    f"as root: apt-get install --no-install-recommends {' '.join(PODMAN_PACKAGES)} (`python tests/engines.py` does it)"
)


class Missing(Exception):
    """There is no engine on this machine; says how to get it."""


def provide() -> None:
    """Install what is missing, where that is possible; raise Missing where it is not."""
    wanted = {*PROGRAMS, "docker-compose", *PODMAN_PROGRAMS}
    missing = [name for name in wanted if shutil.which(name, path=PATH) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL=1: on a machine with an init the package must not start an engine of its own
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        packages = dict.fromkeys((*PACKAGES, *PODMAN_PACKAGES))
        for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *words], env=environment, timeout=900, check=True, stdout=subprocess.DEVNULL)
    locate()
    locate_podman()


def locate() -> None:
    """Raise Missing where the tests' engine cannot be started."""
    if os.geteuid() != 0:
        raise Missing("an engine of the tests' own needs root")
    if missing := [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]:
        raise Missing(f"{', '.join(missing)} missing: {FIX}")


def locate_podman() -> None:
    """Raise Missing where the tests' podman cannot run."""
    if os.geteuid() != 0:
        raise Missing("a podman of the tests' own needs root")
    if missing := [name for name in PODMAN_PROGRAMS if shutil.which(name, path=PATH) is None]:
        raise Missing(f"{', '.join(missing)} missing: {PODMAN_FIX}")


class Dockerd:
    """One engine with everything below a folder of its own. ``network``: with a bridge, in a namespace of its own."""

    program = "docker"

    def __init__(self, *, network: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jobmill-dockerd-"))
        self.socket = self.folder / "s"
        self.host = f"unix://{self.socket}"
        self.namespace = f"jm{os.getpid()}d" if network else ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        argv = [*self._tool("dockerd"), "--host", self.host, "--data-root", str(self.folder / "data")]
        argv += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        if self.namespace:
            with suppress(subprocess.CalledProcessError):
                self._run(["ip", "netns", "add", self.namespace])
            self._run(["ip", "-n", self.namespace, "link", "set", "lo", "up"])
            argv = ["nsenter", f"--net=/run/netns/{self.namespace}", *argv]  # `ip netns exec` would hide the cgroups
        else:
            argv += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *argv],  # it must not outlive a run of the tests that was killed
                env=os.environ | {"PATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while self.docker("version", check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = (self.folder / "log").read_text(errors="replace")[-3000:]
                self.stop()
                raise AssertionError(f"dockerd does not come up:\n{words}")
            time.sleep(0.1)

    def _tool(self, name: str) -> list[str]:
        found = shutil.which(name, path=PATH)
        assert found is not None, FIX
        return [found]

    def docker(self, *words: str, check: bool = True, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run the docker CLI on it."""
        given = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run(
            ["docker", "--host", self.host, *words],
            env=os.environ | {"PATH": PATH},
            capture_output=True,
            timeout=60,
            check=check,
            **given,  # type: ignore[call-overload]
        )

    def out(self, *words: str) -> str:
        """Return what a command of the docker CLI prints."""
        return self.docker(*words).stdout.decode().strip()

    def remove(self, *containers: str) -> None:
        """Remove containers, whatever they do."""
        self.docker("rm", "--force", *containers)

    def load(self, name: str, image: bytes, *changes: str) -> None:
        """Make an image of a tar file; ``changes``: lines of a Dockerfile."""
        self.docker("import", *(f"--change={line}" for line in changes), "-", name, data=image)

    def kill(self) -> None:
        """Kill the engine; its containers are left to themselves."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        # its containerd dies with it, and where nobody reaps it at once it would be taken for alive
        (self.folder / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let the engine stand still: it takes connections and says nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        """Return the daemon's pids: dockerd (behind `nsenter` it is the same process) and its containerd."""
        found = [] if self._process is None or self._process.poll() is not None else [self._process.pid]
        with suppress(OSError, ValueError):
            found.append(int((self.folder / "exec" / "containerd" / "containerd.pid").read_text()))
        return [pid for pid in found if str(self.folder).encode() in _command_line(pid)]

    def stop(self) -> None:
        """Stop containers and engine, and remove all that it kept."""
        if self._process is not None and self._process.poll() is None:
            with suppress(subprocess.SubprocessError):
                for some in _parts(self.docker("ps", "-aq", check=False).stdout.decode().split()):
                    self.docker("rm", "-f", *some, check=False)
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._kill_containers()
        places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed([place for place in places if place.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True, timeout=20)
        if self.namespace:
            subprocess.run(["ip", "netns", "del", self.namespace], check=False, capture_output=True, timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill_containers(self) -> None:
        """Kill what an engine that died left running: its shims, and their children."""
        for entry in Path("/proc").iterdir():
            line = _command_line(int(entry.name)) if entry.name.isdigit() else b""
            if b"containerd-shim" in line and str(self.folder).encode() in line:
                with suppress(OSError):
                    tasks = [task.read_text().split() for task in entry.glob("task/*/children")]
                    for pid in [int(child) for some in tasks for child in some] + [int(entry.name)]:
                        os.kill(pid, signal.SIGKILL)

    def _run(self, argv: Sequence[str]) -> None:
        subprocess.run(argv, check=True, capture_output=True, timeout=20, env=os.environ | {"PATH": PATH})


class Podman:
    """Podman with all that it keeps below a folder of its own; it has no daemon, `host` is None.

    ``program`` is what the tests name as engine: a script that tells podman where its folders are.
    """

    host = None

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="jobmill-podman-"))
        self.program = str(self.folder / "podman")

    def start(self) -> None:
        """Write its configuration, and ask it for its version."""
        here, podman = self.folder, shutil.which("podman", path=PATH)
        assert podman is not None, PODMAN_FIX
        storage = f'[storage]\ndriver = "vfs"\nrunroot = "{here}/run"\ngraphroot = "{here}/graph"\n'
        settings = [
            "[engine]",
            'cgroup_manager = "cgroupfs"',  # there may be no systemd
            'events_logger = "file"',
            'runtime = "runc"',
            *(f'{name} = "{here}/{name}"' for name in ("static_dir", "volume_path", "tmp_dir")),
            "[containers]",
            "default_ulimits = []",  # its own is above what a container in a container may have
            "[network]",
            f'network_config_dir = "{here}/network"',
        ]
        (here / "storage.conf").write_text(storage)
        (here / "containers.conf").write_text("\n".join(settings) + "\n")
        script = f"export CONTAINERS_CONF={here}/containers.conf CONTAINERS_STORAGE_CONF={here}/storage.conf"
        Path(self.program).write_text(f'#!/bin/sh\n{script} PATH="{PATH}"\nexec {podman} "$@"\n')
        Path(self.program).chmod(0o755)
        self.out("version")

    def docker(self, *words: str, check: bool = True, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a command of it."""
        given = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
        return subprocess.run([self.program, *words], capture_output=True, timeout=60, check=check, **given)  # type: ignore[call-overload]

    def out(self, *words: str) -> str:
        """Return what a command of it prints."""
        return self.docker(*words).stdout.decode().strip()

    def load(self, name: str, image: bytes, *changes: str) -> None:
        """Make an image of a tar file; ``changes``: lines of a Dockerfile."""
        self.docker("import", *(f"--change={line}" for line in changes), "-", name, data=image)

    def remove(self, *containers: str) -> None:
        """Remove containers, whatever they do, without ten seconds for those that ignore TERM."""
        self.docker("rm", "--force", "--time=0", *containers)

    def stop(self) -> None:
        """Remove its containers, and all that it kept."""
        with suppress(subprocess.SubprocessError):
            self.docker("rm", "--all", "--force", "--time=0", check=False)
        places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed([place for place in places if place.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True, timeout=20)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def podman_for_tests() -> Iterator[Podman]:
    """Give podman with one image; where there is none, fail the test in CI and skip it elsewhere."""
    with _or_not(provide, locate_podman):
        podman = Podman()
    try:
        podman.start()
        podman.load(IMAGE, images.busybox(), "ENV PATH=/bin", "ENV OF_IMAGE=1")
        yield podman
    finally:
        podman.stop()


@contextmanager
def _or_not(get: Callable[[], None], look: Callable[[], None]) -> Iterator[None]:
    try:
        get() if os.environ.get("CI") == "true" else look()
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has to have an engine: {error}", pytrace=False)
        pytest.skip(str(error))
    yield


@contextmanager
def engine_for_tests(*, network: bool = False) -> Iterator[Dockerd]:
    """Give an engine with one image; where there can be none, fail the test in CI and skip it elsewhere."""
    with _or_not(provide, locate):
        dockerd = Dockerd(network=network)
    try:
        dockerd.start()
        dockerd.load(IMAGE, images.busybox(), "ENV PATH=/bin", "ENV OF_IMAGE=1")
        yield dockerd
    finally:
        dockerd.stop()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _parts(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + 50] for start in range(0, len(ids), 50)]


def main() -> int:
    """Install what is missing; say what is there, and exit with 1 when CI lacks it."""
    try:
        provide()
    except (Missing, subprocess.SubprocessError) as error:
        print(f"docker   missing: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    print(f"docker   {shutil.which('dockerd', path=PATH)}")
    print(f"podman   {shutil.which('podman', path=PATH)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
