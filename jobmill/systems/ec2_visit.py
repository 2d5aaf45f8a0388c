"""A visit to an instance: renews its lease and counts what is there, by one command over its SSH connection."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import launch_token
from jobmill.systems.ec2_fleet import FleetHost
from jobmill.systems.ssh_link import SshLink

FETCHED = "fetched"  # in a run folder: nobody needs it there any more
UNFETCHED = 60  # minutes for which an ended launch without it keeps its instance, at most
DEADLINE = 10.0  # seconds
ANSWER, MARKED = b"jobmill-taken ", b"jobmill-marked "
MARKS = 200  # launches that one visit marks
# $1: the folder of run folders; $2: minutes for which results count that nobody fetched. A sealed launch left none.
# Further, two words each: run folder and token of launches whose results nobody needs there any more.
COUNT = """\
n=0 minutes=$2
cd "$1" 2>/dev/null || { echo "jobmill-taken 0"; exit; }
shift 2
while [ $# -gt 1 ]; do
  if head -n 1 "$1/run" 2>/dev/null | grep -qF " $2 "; then
    mkdir -p "$1/FETCHED" && echo "jobmill-marked $2"
  fi
  shift 2
done
for f in ./*/run.*/run; do
  [ -f "$f" ] || continue
  [ -e "${f%run}FETCHED" ] && continue
  if grep -q ' end$' "$f"; then
    [ -n "$(find "$f" -mmin "-$minutes")" ] && ! grep -q '^sealed ' "$f" || continue
  fi
  n=$((n+1))
done
echo "jobmill-taken $n"
""".replace("FETCHED", FETCHED)


class Visits:
    """Visits every instance over a link of its own; one instance at a time for each, several beside one another."""

    def __init__(self, link: Callable[[FleetHost], SshLink], jobs: Callable[[], str]) -> None:
        """``jobs``: the folder of run folders there."""
        self._link, self._jobs = link, jobs
        self._links: dict[str, SshLink] = {}
        self._fetched: dict[str, float] = {}  # tokens to be marked, since when

    def fetched(self, token: str) -> None:
        """Have the next visits mark a launch, wherever it is: its results keep no instance any more."""
        self._fetched[token] = time.monotonic()

    def __call__(self, host: FleetHost, *, renew: bool) -> int | None:
        """Return how many launches are there; None: no answer within `DEADLINE`, or it is not ready yet."""
        ready = host.renew if renew else host.ready
        words = ["/bin/sh", "-c", f"{{ {ready}; }} || exit 1\n{COUNT}", "jobmill", self._jobs()]
        marks: list[str] = []
        for token, since in list(self._fetched.items())[:MARKS]:
            if time.monotonic() - since > UNFETCHED * 60:  # its instance is gone
                self._fetched.pop(token, None)
                continue
            _, job, run = launch_token.split(token)
            marks += [f"{job}/run.{run}", token]
        try:
            if host.name not in self._links:
                self._links[host.name] = self._link(host)
            return self._ask(self._links[host.name], shlex.join([*words, f"{UNFETCHED}", *marks]))
        except (SystemUnavailable, ConfigError, OSError, ValueError):
            return None

    def _ask(self, link: SshLink, command: str) -> int | None:
        until = time.monotonic() + DEADLINE
        data = b""
        with link.open(command) as sock:
            while True:
                sock.settimeout(max(0.01, until - time.monotonic()))
                part = sock.recv(65536)
                if not part:
                    break
                data += part
        first, _, rest = data.partition(b"\n")
        if not json.loads(first).get("ok"):
            return None
        for line in rest.splitlines():
            if line.startswith(MARKED):
                self._fetched.pop(line[len(MARKED) :].decode(), None)
        _, found, number = rest.rpartition(ANSWER)
        return int(number) if found else None

    def close(self) -> None:
        """Let go of all links."""
        for link in self._links.values():
            link.close()
        self._links.clear()
