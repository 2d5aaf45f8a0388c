"""The launches of a pool, as its Redis knows them. Errors are the library's own; `pool_server.told` turns them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import redis

from jobmill.systems import launch_token, pool_scripts
from jobmill.systems.system import ExitInfo, ExitStatus, Token

PREFIX = "jobmill:rq:"
OVER = ("ended", "withdrawn", "unknown")  # states of launches that no task has and none will take
BATCH = 250  # launches that one script deals with at most
_ODD = re.compile(r"[^A-Za-z0-9_-]")


class Looked(NamedTuple):
    """One launch; every field is empty where it is not known."""

    state: str
    queue: str
    host: str
    until: str  # the server's time (ms) to which its lease runs
    pid: str
    progress: str
    worker: str
    sealed: str
    rq_status: str  # what RQ says of a launch that is queued
    now: str  # the server's time (ms)

    @property
    def silent(self) -> float:
        """Seconds since the lease ran out; negative while it runs."""
        try:
            return (int(self.now) - int(self.until)) / 1000
        except ValueError:
            return float("-inf")


@dataclass(frozen=True, kw_only=True)
class Held:
    """One launch to be made known."""

    token: Token
    queue: str
    specification: str  # JSON


def id_of(token: Token) -> str:
    """Return the id of a launch, here and as RQ's job: readable, and of what RQ allows in an id."""
    _, job, run = launch_token.split(token)
    digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return f"{_ODD.sub('-', job)}-{run}-{digest}"


def record_of(token: Token) -> str:
    """Return the record to which a launch belongs."""
    return launch_token.record_and_arrival(launch_token.life_of(token))[0]


class LeftWords(NamedTuple):
    """What a task says of the files of its launch."""

    base: str = "/run"  # its working directory on the server
    globs: Sequence[str] = ()  # those that were wanted from the beginning
    why: str = ""  # why not all of it could be brought


def exit_of(text: str) -> ExitInfo:
    """Return an exit record; one that cannot be read, whoever wrote it, is an end that nobody knows."""
    try:
        info = ExitInfo.from_json(text)
        info.to_json()
        return info
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        words = f"the pool's server holds an exit record that is none: {text[:200]!r}"
        return ExitInfo(exit_status=ExitStatus.UNDETERMINED, reason="lost", evidence=words)


class PoolRecord:
    """What may be said and asked; each call is one round trip for each `BATCH` of launches."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._scripts: dict[str, Any] = {}

    def hold(self, launches: Sequence[Held], ends: str) -> list[str]:
        """Make launches known, held; return their states. The same again changes nothing."""
        said: list[str] = []
        for some in _batches(launches):
            words: list[str] = []
            for it in some:
                words += (id_of(it.token), it.token, record_of(it.token), it.queue, ends, it.specification)
            said += self._run(pool_scripts.HOLD, words)
        return said

    def released(self, pipeline: redis.client.Pipeline, ids: Sequence[str]) -> None:
        """Queue what is held, within a transaction."""
        pipeline.eval(pool_scripts.HEAD + pool_scripts.RELEASE, 1, PREFIX, *ids)

    def take(self, launch: str, owner: str, lease: float, host: str, worker: str) -> list[str]:
        """Take the marker: ``ok``, the specification and the token, or only the state in which the launch is."""
        return cast("list[str]", self._run(pool_scripts.TAKE, [launch, owner, _ms(lease), host, worker]))

    def beat(self, launch: str, owner: str, lease: float, progress: str = "") -> int:
        """Prolong the lease; return the wish (0 none, 1 TERM, 2 KILL), or -1: it is no longer ours to run."""
        return int(self._run(pool_scripts.BEAT, [launch, owner, _ms(lease), progress]))

    def runs(self, launch: str, owner: str, pid: str) -> bool:
        """Tell that it runs."""
        return bool(self._run(pool_scripts.RUNS, [launch, owner, pid]))

    def end(self, launch: str, owner: str, record: str, left: LeftWords) -> bool:
        """Record the end; False: it has another one already."""
        return bool(self._run(pool_scripts.END, [launch, owner, record, json.dumps(left)]))

    def left(self, launch: str) -> LeftWords | None:
        """Return what the task has said of the launch's files; None: the launch is not known."""
        (state,), (text,) = self._fields([launch], "state"), self._fields([launch], "left")
        if state in (None, "unknown", "withdrawn"):
            return None
        try:
            base, globs, why = json.loads(text or '["/run",[],""]')
            return LeftWords(str(base), [str(it) for it in globs], str(why))
        except (ValueError, TypeError, RecursionError):
            return LeftWords(why=f"the pool's server holds nonsense about its files: {text!r:.80}")

    def give_up(self, launch: str, slack: float, record: str) -> bool:
        """End a launch whose lease ran out ``slack`` seconds ago; False: it has been prolonged, or ended."""
        return bool(self._run(pool_scripts.GIVE_UP, [launch, _ms(slack), record]))

    def seal(self, launches: Sequence[tuple[str, Token]], record: str) -> list[str]:
        """Make sure that what has not started never does; return ``sealed``, or the state of what has.

        One that is not known: it was never submitted; without a token it was, and is ``unknown`` from now on.
        """
        said: list[str] = []
        for some in _batches(launches):
            said += self._run(pool_scripts.SEAL, [record, *(word for pair in some for word in pair)])
        return said

    def withdraw(self, ids: Sequence[str], record: str) -> list[str]:
        """Unmake what has not started; return those ids."""
        return [it for some in _batches(ids) for it in self._run(pool_scripts.WITHDRAW, [record, *some])]

    def kill(self, ids: Sequence[str], level: int) -> None:
        """Wish for the end of what has started: 1 by TERM, 2 by KILL."""
        for some in _batches(ids):
            self._run(pool_scripts.KILL, [level, *some])

    def again(self, launch: str, most: int) -> bool:
        """Tell whether RQ may be given a launch again that no task has taken."""
        return bool(self._run(pool_scripts.AGAIN, [launch, most]))

    def look(self, ids: Sequence[str], rq_jobs: str) -> list[Looked]:
        """Return how each is; ``rq_jobs``: RQ's key of a job without its id."""
        found = [row for some in _batches(ids) for row in self._run(pool_scripts.LOOK, [rq_jobs, *some])]
        return [Looked(*row) for row in found]

    def exits(self, ids: Sequence[str]) -> list[str | None]:
        """Return the exit records, None for a launch without one."""
        return self._fields(ids, "end")

    def tokens(self, ids: Sequence[str]) -> list[str | None]:
        """Return the tokens of launches, None for one that is not known."""
        return self._fields(ids, "token")

    def live(self, record: str) -> list[str]:
        """Return the ids of a record's launches that have not ended."""
        found: list[str] = []
        cursor = 0
        while True:  # a set that is large is not read in one step of the server
            cursor, part = cast(
                "tuple[int, list[bytes]]", self.client.sscan(f"{PREFIX}live:{record}", cursor, count=1000)
            )
            found += [it.decode() for it in part]
            if not cursor:
                return list(dict.fromkeys(found))

    def forget(self, ids: Sequence[str]) -> None:
        """Drop launches of which nothing is left to be told."""
        for some in _batches(ids):
            states = self._fields(some, "state")
            gone = [it for it, state in zip(some, states, strict=True) if state in OVER]
            if gone:
                self.client.unlink(*(f"{PREFIX}run:{it}" for it in gone))

    def ask(self, launch: str, words: Sequence[Any]) -> None:
        """Ask the task of a launch for something."""
        key = f"{PREFIX}ask:{launch}"
        with self.client.pipeline() as pipe:
            pipe.rpush(key, json.dumps(words))
            pipe.expire(key, 3600)
            pipe.execute()

    def _fields(self, ids: Sequence[str], name: str) -> list[str | None]:
        found: list[str | None] = []
        for some in _batches(ids):
            with self.client.pipeline(transaction=False) as pipe:
                for it in some:
                    pipe.hget(f"{PREFIX}run:{it}", name)
                found += [None if v is None else _text(v) for v in pipe.execute()]
        return found

    def _run(self, script: str, words: Iterable[Any]) -> Any:
        """Run a script; texts in its answer are decoded."""
        known = self._scripts.get(script)
        if known is None:
            known = self._scripts[script] = self.client.register_script(pool_scripts.HEAD + script)
        return _plain(known(keys=[PREFIX], args=[_bytes(word) for word in words]))


def _batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _bytes(word: Any) -> bytes:
    return str(word).encode("utf-8", "surrogateescape")


def _text(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


def _plain(answer: Any) -> Any:
    if isinstance(answer, bytes):
        return _text(answer)
    return [_plain(it) for it in answer] if isinstance(answer, list) else answer
