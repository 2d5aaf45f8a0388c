"""A container engine behind its command line: `docker`, or whatever speaks as it does (`podman`).

Every call has a deadline. Words of the engine are kept verbatim.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from jobmill.errors import SystemUnavailable

DEADLINE = 8.0  # seconds: less than the silence after which a worker counts as dead
CHUNK = 200  # containers in one command
WORDS = 2000  # characters of an engine's answer that are told
_DOWN = re.compile(
    r"Cannot connect to|Is the docker daemon running|connection refused|dial (unix|tcp)|no such host"
    r"|permission denied while trying to connect|unable to connect to Podman",
    re.IGNORECASE,
)
_NONE = re.compile(
    r"No such (?:container|object):? \"?([^\s\":]+)|no (?:container|object) .*\"([^\"\s]+)\"", re.IGNORECASE
)
_LATER = re.compile(
    r"no space left|too many open files|resource temporarily unavailable|is being removed|toomanyrequests",
    re.IGNORECASE,
)
_HOST = {"podman": "CONTAINER_HOST"}  # variable that names the engine's address; DOCKER_HOST elsewhere
_ROW = '{"id":{{json .ID}},"state":{{json .State}},"token":{{json (.Label "jobmill.token")}}}'
_FACTS = (
    '{"id":{{json .Id}},"name":{{json .Name}},"state":{{json .State}},"labels":{{json .Config.Labels}},'
    '"mounts":{{json .Mounts}}}'
)


class Unanswered(SystemUnavailable):
    """The deadline passed, or the answer broke off: what was asked for may have happened."""


@dataclass(frozen=True)
class Answer:
    """What one call printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The engine's own words for what went wrong."""
        text = re.sub(r"^(Error response from daemon|Error): ", "", self.err.strip(), flags=re.MULTILINE)
        return text[:WORDS] or f"exit {self.code}"

    @property
    def passing(self) -> bool:
        """True where the engine lacks something now that it may have later: the same again may work."""
        return _LATER.search(self.err) is not None

    @property
    def missing(self) -> set[str]:
        """Names or ids that the engine says it does not have."""
        return {first or second for first, second in _NONE.findall(self.err)}


class Listed(NamedTuple):
    """One row of a listing."""

    state: str  # created, running, paused, exited …
    token: str


class ContainerEngine:
    """One engine at one address. Safe for several threads."""

    def __init__(self, program: str = "docker", host: str | None = None) -> None:
        self.program = program
        self.host = host
        self.deadline = DEADLINE
        self._bound = threading.local()
        self._kind = "podman" if os.path.basename(program).startswith("podman") else "docker"  # noqa: PTH119
        self.env = {**os.environ}
        self.env.pop("JOBMILL_REDIS_URL", None)
        if host:
            self.env[_HOST.get(self._kind, "DOCKER_HOST")] = host

    @property
    def podman(self) -> bool:
        """True for podman, whose options differ in places."""
        return self._kind == "podman"

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Give the calls of this thread so long together, but for those with a deadline of their own.

        An engine that is slow, and not dead, would else keep a worker silent for one deadline after the other.
        """
        before = getattr(self._bound, "until", None)
        until = time.monotonic() + seconds
        self._bound.until = until if before is None else min(before, until)
        try:
            yield
        finally:
            self._bound.until = before

    def _patience(self) -> float:
        until = getattr(self._bound, "until", None)
        return self.deadline if until is None else max(0.01, min(self.deadline, until - time.monotonic()))

    def call(
        self,
        *words: str,
        deadline: float | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
    ) -> Answer:
        """Run one command of the engine. ``stdin``: a descriptor that it has while it runs, and hands on to nobody.

        Raises SystemUnavailable when certainly nothing happened (no program, nobody answers), Unanswered otherwise.
        """
        patience = deadline or self._patience()
        try:
            done = subprocess.run(
                [self.program, *words],
                env={**self.env, **env} if env else self.env,
                stdin=stdin,
                capture_output=True,
                timeout=patience,
                pass_fds=tuple(pass_fds),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unanswered(f"{self.program} {words[0]} gave no answer within {patience:.2g} s") from None
        except FileNotFoundError:
            raise SystemUnavailable(
                f"there is no program {self.program!r} here; install it, or name another by `engine`"
            ) from None
        except OSError as error:
            raise SystemUnavailable(f"{self.program} cannot be started: {error.strerror}") from error
        answer = Answer(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
        if answer.code:
            if _DOWN.search(answer.err):
                raise SystemUnavailable(answer.words)
            if answer.code < 0 or "EOF" in answer.err or "context deadline exceeded" in answer.err:
                raise Unanswered(answer.words)
        return answer

    def ask(self, *words: str, deadline: float | None = None) -> str:
        """Return what a query prints; raise SystemUnavailable when it fails."""
        answer = self.call(*words, deadline=deadline)
        if answer.code:
            raise SystemUnavailable(answer.words)
        return answer.out

    @contextmanager
    def _read(self, text: str) -> Iterator[None]:
        """Make of an answer that cannot be read an engine that cannot be asked."""
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError):
            begin = text.strip()[:200]
            raise SystemUnavailable(f"{self.program} answers what is no listing of containers: {begin!r}") from None

    def listed(self, labels: Mapping[str, str]) -> dict[str, Listed]:
        """Return by id every container with these labels. Raises SystemUnavailable."""
        filters = [f"--filter=label={name}={value}" for name, value in labels.items()]
        out = self.ask("ps", "--all", "--no-trunc", *filters, "--format", "json" if self.podman else _ROW)
        with self._read(out):
            if self.podman:
                rows = json.loads(out)
                return {str(row["Id"]): Listed(str(row["State"]).lower(), _token(row["Labels"])) for row in rows}
            return {str(it["id"]): Listed(str(it["state"]).lower(), str(it["token"])) for it in _lines(out)}

    def inspected(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return id, name, state, labels and mounts of containers by id; those that are not there are left out.

        Raises SystemUnavailable rather than leave one out of which the engine did not say so.
        """
        found: dict[str, dict[str, Any]] = {}
        for some in _chunks(names):
            form = () if self.podman else ("--format", _FACTS)  # podman's format fails with all when one is missing
            answer = self.call("container", "inspect", *form, *some)
            with self._read(answer.out):
                rows = _podman_facts(answer.out) if self.podman else _lines(answer.out)
                found.update((str(row["id"]), row) for row in rows)
            if answer.code and len(rows) + len(answer.missing & set(some)) < len(set(some)):
                raise SystemUnavailable(answer.words)
        return found

    def remove(self, ids: Sequence[str], *, force: bool = False) -> None:
        """Remove containers that do not run (with ``force`` any); never a volume. What resists stays."""
        for some in _chunks(ids):
            self.call("rm", *(["--force"] if force else []), *some)

    def version(self) -> str:
        """Return the version of the engine that answers."""
        form = "{{.Client.Version}}" if self.podman else "{{.Server.Version}}"
        return self.ask("version", "--format", form).strip()

    def installed(self) -> bool:
        """Tell whether its program is here."""
        return shutil.which(self.program) is not None


def _token(labels: Mapping[str, str] | None) -> str:
    return str((labels or {}).get("jobmill.token", ""))


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _podman_facts(text: str) -> list[dict[str, Any]]:
    """Return of podman's whole answer what `_FACTS` asks of docker."""
    return [
        {
            "id": it["Id"],
            "name": it["Name"],
            "state": it["State"],
            "labels": it["Config"]["Labels"],
            "mounts": it.get("Mounts"),
        }
        for it in (json.loads(text) if text.strip() else ())
    ]


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
