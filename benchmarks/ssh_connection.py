"""Jobs a second over one connection to a host, beside commands over AiiDA's transport and OpenSSH's ControlMaster.

    python benchmarks/ssh_connection.py --jobs 500 --rounds 3

The host is a real sshd on loopback: no latency, so what is measured is what each job costs here and there. A job of
jobmill is a whole one, from the push to its recorded end with stdout, stderr and exit record brought home, on four
slots. What it is beside is a command alone, one after the other, as those programs run them: no folder, no script, no
queue, no files, no polling. Prints a table and how many connections the host saw, and ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from benchmarks.contender import COMMAND, WrongResult
from benchmarks.jobmill_under_test import JobmillThroughput
from benchmarks.machine import facts
from benchmarks.peers.environment import provide
from tests.farm import Sshd, one_sshd

AIIDA = "aiida-core==2.9.4"
SLOTS = 4


def aiida(host: Sshd, count: int) -> float:
    """Return the seconds that AiiDA's transport takes for so many commands."""
    python = provide("aiida", AIIDA)
    program = Path(__file__).with_name("clients") / "commands_of_aiida.py"
    words = [host.address, str(host.port), host.user, str(host.key), str(host.known_hosts), str(count), COMMAND]
    ended = subprocess.run([python, "-P", program, *words], capture_output=True, text=True, timeout=600, check=False)
    if ended.returncode:
        raise WrongResult(f"aiida: {ended.stderr.strip()[-500:]}")
    answer = json.loads(ended.stdout.splitlines()[-1])
    if answer["right"] != count:
        raise WrongResult(f"aiida: {answer['right']} of {count} commands ended with 0")
    return float(answer["seconds"])


def openssh(host: Sshd, count: int, folder: Path) -> float:
    """Return the seconds that so many runs of `ssh` take, which ride on one connection that is open."""
    path = str(folder / "control")
    words = ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-o", f"UserKnownHostsFile={host.known_hosts}"]
    words += ["-i", str(host.key), "-p", str(host.port), f"{host.user}@{host.address}"]
    subprocess.run([*words, "-M", "-N", "-f"], check=True, timeout=30)
    try:
        begin = time.perf_counter()
        for _ in range(count):
            subprocess.run([*words, COMMAND], check=True, timeout=30)
        return time.perf_counter() - begin
    finally:
        subprocess.run([*words, "-O", "exit"], check=False, capture_output=True, timeout=30)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rates: dict[str, list[float]] = {}
    logins: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="jobmill-ssh-") as name, one_sshd(Path(name) / "sshd") as host:
        folder = Path(name)
        system = {"far": {"kind": "ssh", "limit": 10_000, **host.options(folder=str(folder / "far"), slots=SLOTS)}}
        jobmill = JobmillThroughput(folder / "spool", systems=json.dumps(system))
        jobmill.prepare()
        contenders: dict[str, Callable[[], float]] = {
            "jobmill, whole jobs": lambda: jobmill.round(given.jobs),
            "aiida core.ssh, commands": lambda: aiida(host, given.jobs),
            "openssh ControlMaster, commands": lambda: openssh(host, given.jobs, folder),
        }
        try:
            for _ in range(given.rounds):
                for what, run in contenders.items():
                    before = host.logins
                    rates.setdefault(what, []).append(given.jobs / run())
                    logins.setdefault(what, []).append(host.logins - before)
        finally:
            jobmill.close()
    middle = {what: sorted(found)[len(found) // 2] for what, found in rates.items()}
    print(f"{given.jobs} x {COMMAND}, medians of {given.rounds} alternating rounds")
    for what, rate in middle.items():
        print(f"{what:32} {rate:8.1f} /s   logins a round: {', '.join(map(str, logins[what]))}")
    found = {"jobs": given.jobs, "rounds": given.rounds, "rates": rates, "medians": middle, "logins": logins}
    print(json.dumps({"benchmark": "ssh_connection", **found, "machine": facts(Path.cwd())}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
