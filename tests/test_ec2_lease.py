"""The script that ends an instance which nobody talks to, run for real with a `shutdown` that only writes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ec2world import cloud_config, installed, needed, until

from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_user_data import MOST, renew_command, user_data

pytestmark = pytest.mark.timeout(60)

TOOLS = ("sh", "sleep", "rm", "mkdir", "chown", "touch", "cat", "test", "setsid")


class Box:
    """A folder that stands for an instance: a PATH on which nothing can end this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.ends = folder / "lib", folder / "bin", folder / "ends"
        self.bin.mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)
        for name in ("shutdown", "poweroff"):
            self.says(name, 0)
        self.says("systemd-run", 1)
        self.processes: list[subprocess.Popen[bytes]] = []

    def says(self, name: str, status: int) -> None:
        """Make a program that notes how it was called."""
        (self.bin / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{self.ends}\nexit {status}\n')
        (self.bin / name).chmod(0o755)

    def run(self, command: list[str]) -> subprocess.Popen[bytes]:
        one = subprocess.Popen(command, env={"PATH": str(self.bin)}, start_new_session=True)
        self.processes.append(one)
        return one

    def ended(self) -> list[str]:
        """Return the calls that would have ended the machine."""
        calls = self.ends.read_text().splitlines() if self.ends.exists() else []
        return [call for call in calls if not call.startswith("systemd-run")]

    def renew(self) -> int:
        """Do what is done over ssh."""
        return subprocess.run(["/bin/sh", "-c", renew_command(str(self.folder))], check=False).returncode


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    for one in made.processes:
        for victim in (one.pid, *_children(made.folder)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(victim, signal.SIGKILL)
        one.wait(5)


def _children(folder: Path) -> list[int]:
    """Return the leaders of sessions that run the script of this folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{folder}/lease.sh".encode() in words:
            found.append(int(place.name))
    return found


@pytest.fixture
def keys(tmp_path: Path) -> HostKeys:
    file = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)
    return HostKeys(file)


def boot(box: Box, keys: HostKeys, lease: int, script: str | None = None) -> dict[str, list[list[str]]]:
    text = user_data(keys, "r.1:a:0", user="root", lease=lease, folder=str(box.folder), script=script)
    assert len(text.encode()) < MOST
    config, _ = cloud_config(text)
    (command,) = config["bootcmd"]
    assert box.run([str(box.bin / "sh"), *command[1:]]).wait(10) == 0
    until(lambda: (box.folder / "lease").exists())
    return config


def test_an_instance_that_nobody_talks_to_ends_itself_and_goes_on_trying(box: Box, keys: HostKeys) -> None:
    began = time.monotonic()
    boot(box, keys, 3)
    until(lambda: len(box.ended()) >= 5, 30)
    assert time.monotonic() - began > 3
    assert box.ended()[:3] == ["shutdown -h now"] * 3 and "poweroff -f" in box.ended()


def test_a_lease_that_is_renewed_holds_and_then_runs_out(box: Box, keys: HostKeys) -> None:
    config = boot(box, keys, 4)
    assert box.renew() != 0  # not ready: what runs last has not run
    (command,) = config["runcmd"]
    subprocess.run(command, check=True)
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        assert box.renew() == 0
        time.sleep(0.5)
        assert not box.ended()
    until(lambda: bool(box.ended()), 15)


def test_a_renewal_after_the_first_try_takes_it_back(box: Box, keys: HostKeys) -> None:
    boot(box, keys, 2)
    until(lambda: bool(box.ended()), 15)
    box.renew()
    time.sleep(1.5)
    tries = len(box.ended())
    assert tries < 4
    box.renew()
    time.sleep(1.2)
    assert len(box.ended()) <= tries + 1


def test_where_shutdown_fails_poweroff_is_tried(box: Box, keys: HostKeys) -> None:
    box.says("shutdown", 1)
    boot(box, keys, 1)
    until(lambda: "poweroff" in box.ended(), 15)


def test_nothing_that_lies_in_the_lease_s_way_renews_it_for_ever(box: Box, keys: HostKeys) -> None:
    boot(box, keys, 2)
    (box.folder / "lease" / "renew").mkdir()  # cannot be removed by rm: counts for nothing
    until(lambda: bool(box.ended()), 15)


def test_the_same_launch_has_the_same_user_data_and_another_has_another(keys: HostKeys) -> None:
    first = user_data(keys, "r.1:a:0", user="root", lease=900, script="#!/bin/sh\necho é\n")
    assert first == user_data(keys, "r.1:a:0", user="root", lease=900, script="#!/bin/sh\necho é\n")
    config, script = cloud_config(first)
    assert script == "#!/bin/sh\necho é\n"
    other, none = cloud_config(user_data(keys, "r.1:a:1", user="root", lease=900))
    assert none is None and config["ssh_keys"] != other["ssh_keys"]
    assert keys.login in config["ssh_authorized_keys"]


def test_the_host_key_is_one_that_ssh_reads(keys: HostKeys, tmp_path: Path) -> None:
    file = tmp_path / "host"
    file.write_text(keys.private("r.1:a:0"))
    file.chmod(0o600)
    shown = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == keys.public("r.1:a:0").split()


def test_cloud_init_knows_every_key(keys: HostKeys, tmp_path: Path) -> None:
    if Path("/run/systemd/system").exists():  # its services change a machine that boots: that is not for a test to do
        needed(shutil.which("cloud-init"), "no cloud-init; as root: apt-get install --no-install-recommends cloud-init")
    else:
        installed({"cloud-init": "cloud-init"})
    file = tmp_path / "user-data"
    file.write_text(user_data(keys, "r.1:a:0", user="root", lease=900))
    done = subprocess.run(["cloud-init", "schema", "-c", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(file.read_text().partition("\n")[2])
