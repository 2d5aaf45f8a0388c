"""Starts held containers, a few at once and off the calling thread: an engine takes a fifth of a second for one.

What is not started when the process dies stays held, and the next poll releases it. A container is started once: an
engine would start one that has ended again, so its state is asked for under a lock that lasts as long as the start.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import container_end, container_launch
from jobmill.systems.container_engine import Answer, ContainerEngine
from jobmill.systems.container_folder import ContainerFolder
from jobmill.systems.container_volume import below
from jobmill.systems.system import Token

AT_ONCE = 4
START = 60.0  # seconds for one start: an image on a slow disk


class Starts:
    """A line of containers to be started, and the threads that do it."""

    def __init__(self, engine: ContainerEngine) -> None:
        self._engine = engine
        self._line: queue.SimpleQueue[tuple[str, ContainerFolder, Mapping[str, str]]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pending: set[Token] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def add(self, container: str, folder: ContainerFolder, labels: Mapping[str, str]) -> None:
        """Start a container that bears these labels, and is held; it may stand in line already."""
        with self._changed:
            if folder.token in self._pending:
                return
            self._pending.add(folder.token)
        self._line.put((container, folder, labels))
        if len(self._threads) < min(AT_ONCE, len(self._pending)):
            thread = threading.Thread(target=self._work, name="container-starts", daemon=True)
            self._threads.append(thread)
            thread.start()

    def pending(self, token: Token) -> bool:
        """Tell whether a launch stands in line, or is being started here."""
        with self._changed:
            return token in self._pending

    def wait(self, seconds: float) -> None:
        """Wait until nothing is in line, for so long."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Begin no more starts."""
        self._closed = True

    def _work(self) -> None:
        while True:
            container, folder, labels = self._line.get()
            try:
                if not self._closed:
                    with suppress(SystemUnavailable):  # it stays held: the next poll asks for it again
                        start(self._engine, container, folder, labels)
            finally:
                with self._changed:
                    self._pending.discard(folder.token)
                    self._changed.notify_all()


def start(engine: ContainerEngine, container: str, folder: ContainerFolder, labels: Mapping[str, str]) -> None:
    """Start a container unless it runs, has ended, was killed, or is not ours. Raises SystemUnavailable."""
    with folder.starting() as right:
        if right is None or folder.exit() is not None:
            return
        facts = engine.inspected([container]).get(container)
        if facts is not None and ours(facts, labels) and held(facts["state"]):
            if (swapped := _swapped(facts)) is not None:
                words = f"volume {swapped}: it became a link after it was allowed; what it leads to is not mounted"
                _end(container, folder, facts["state"], words)
                return
            # as its stdin: any other descriptor podman hands on to the process that stays with the container
            answer = engine.call("start", container, deadline=START, stdin=right)
            if answer.code and not answer.passing:
                _keep_refusal(engine, container, folder, answer)


def _keep_refusal(engine: ContainerEngine, container: str, folder: ContainerFolder, answer: Answer) -> None:
    """Take down why a container does not start, where its state does not say so: podman forgets it at once."""
    facts = engine.inspected([container]).get(container)
    if facts is None or not held(facts["state"]):
        return
    _end(container, folder, facts["state"], answer.words, answer.code if answer.code in (126, 127) else 0)


def _swapped(facts: Mapping[str, Any]) -> str | None:
    """Return a folder of the host that is to be mounted and is, or lies below, a link by now: a job made it one.

    The engine follows it at the start. Links were resolved when it was allowed; our own places may have some.
    """
    for mount in facts.get("mounts") or ():
        source, target = str(mount.get("Source") or ""), str(mount.get("Destination") or "")
        own = below(target, container_launch.FOLDER) or below(target, container_launch.CODE)
        if mount.get("Type") == "bind" and not own and os.path.realpath(source) != source:
            return source
    return None


def _end(container: str, folder: ContainerFolder, state: Mapping[str, Any], words: str, code: int = 0) -> None:
    state = {**state, "Error": words, "ExitCode": code}
    info = container_end.record_of(
        state, container=container, host=os.uname()[1], killed=False, overdue=False, last_words="", message=""
    )
    with suppress(OSError):  # a full disk: it is released again, and refused again
        folder.end(replace(info, ended=round(time.time(), 3)))


def held(state: Mapping[str, Any]) -> bool:
    """Tell whether a container was made and never started."""
    return str(state.get("Status", "")).lower() in container_end.UNSTARTED and not container_end.ended(state)


def ours(facts: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a container bears all these labels: nothing else is ever touched."""
    borne = facts.get("labels") or {}
    return all(borne.get(name) == value for name, value in labels.items())
