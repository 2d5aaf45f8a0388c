"""A visit to an instance: renews its lease and counts what is there, by one command over its SSH connection."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Collection

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems.ec2_fleet_host import FleetHost
from jobmill.systems.run_folder import FETCHED
from jobmill.systems.ssh_link import SshLink

UNFETCHED = 60  # minutes for which results that nobody has fetched keep their instance, at most
DEADLINE = 10.0  # seconds
ANSWER = b"jobmill-taken "
MOST = 1 << 20  # bytes of an answer, with what a login prints
# $1: the folder of run folders; $2: minutes for which results count. What is marked was fetched, and what is sealed
# left nothing. A run without an end whose processes are gone never gets one: it counts as if it had ended when that is
# first seen. One whose marker is young may be about to be spawned.
COUNT = """\
lives() {
  [ -n "$(find "$1" -mmin -2)" ] && return
  pid=$(sed -n 's/^pid \\([0-9]*\\) .*/\\1/p' "$1" | head -n 1)
  [ -n "$pid" ] && [ -d "/proc/$pid" ] && return
  read -r _ _ token _ <"$1"
  grep -qsF "JOBMILL_TOKEN=$token" /proc/[0-9]*/environ
}
n=0 minutes=$2
cd "$1" 2>/dev/null || { echo "jobmill-taken 0"; exit; }
for f in ./*/run.*/run; do
  [ -f "$f" ] || continue
  folder=${f%/run} since=$f
  [ -e "$folder/FETCHED" ] && continue
  grep -q '^sealed .* end$' "$f" && continue
  if ! grep -q ' end$' "$f"; then
    lives "$f" && n=$((n+1)) && continue
    since=$folder/gone
    [ -e "$since" ] || : >"$since"
  fi
  [ -n "$(find "$since" -mmin "-$minutes")" ] && n=$((n+1))
done
echo "jobmill-taken $n"
""".replace("FETCHED", FETCHED)


class Visits:
    """Visits every instance over a link of its own; one instance at a time for each, several beside one another."""

    def __init__(self, link: Callable[[FleetHost], SshLink], jobs: Callable[[], str]) -> None:
        """``jobs``: the folder of run folders there."""
        self._link, self._jobs = link, jobs
        self._links: dict[str, SshLink] = {}

    def __call__(self, host: FleetHost, *, renew: bool) -> int | None:
        """Return how many launches are there; None: no answer within `DEADLINE`, or it is not ready yet."""
        ready = host.renew if renew else host.ready
        words = ["/bin/sh", "-c", f"{{ {ready}; }} || exit 1\n{COUNT}", "jobmill", self._jobs(), f"{UNFETCHED}"]
        try:
            if host.name not in self._links:
                self._links[host.name] = self._link(host)
            return self._ask(self._links[host.name], shlex.join(words))
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
                if len(data) > MOST:  # an instance is not trusted
                    return None
        first, _, rest = data.partition(b"\n")
        if not json.loads(first).get("ok"):
            return None
        _, found, number = rest.rpartition(ANSWER)
        return max(0, int(number)) if found else None

    def keep(self, names: Collection[str]) -> None:
        """Let go of the links to all others."""
        for name in self._links.keys() - set(names):
            self._links.pop(name).close()

    def close(self) -> None:
        """Let go of all links."""
        for link in self._links.values():
            link.close()
        self._links.clear()
