"""Launches instances: each planned one once, with another type where EC2 has none of the first, and with pauses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems.ec2_cloud import Cloud, Refused, Worth
from jobmill.systems.ec2_instance import Instance

logger = logging.getLogger("jobmill")

FIRST, LONGEST = 10.0, 300.0  # seconds of the pauses after refusals, each twice as long as the one before
DUD, DUD_LONGEST = (
    6,
    3600.0,
)  # after instances that never came up: each so many times as long as the one before, seconds


class Launcher:
    """Knows what EC2 said to the last launches; all of it may be lost."""

    def __init__(self, system: str, types: Sequence[str], request: Callable[[str, str], Mapping[str, Any]]) -> None:
        """``request``: the parameters of RunInstances for a launch's name and a type."""
        self._system = system
        self._types = types
        self._request = request
        self._unclear: dict[str, str] = {}  # launch -> the type of a call whose answer did not come
        self._refusals = 0
        self._until = 0.0
        self._words = ""
        self._duds = 0  # in a row
        self.bumps: dict[str, int] = {}  # intent -> attempts that EC2 knows and does not show

    def held(self, now: float) -> str:
        """Return why nothing is launched now, EC2's own words; empty: it may be tried."""
        return f"EC2: {self._words}; next try in {self._until - now:.0f} s" if now < self._until else ""

    @property
    def probing(self) -> bool:
        """True while nothing comes up: one launch at a time is enough to see that it is mended."""
        return self._duds > 1

    def dud(self, words: str, now: float) -> None:
        """Note that what was launched ended, or had to be ended, before it could be reached: it costs all the same."""
        if now >= self._until:  # several that were launched together are one
            self._duds += 1
        self._until = max(self._until, now + min(DUD_LONGEST, FIRST * DUD ** min(self._duds - 1, 16)))
        self._words = f"what was launched did not come up: {words}"
        logger.warning("%s: %s", self._system, self._words)

    def met(self) -> None:
        """Note that an instance has come up."""
        self._duds = 0

    def launch(self, cloud: Cloud, names: Sequence[str], now: float) -> list[Instance]:
        """Launch these, as far as EC2 lets us; return what was launched, now or by the same call before."""
        made: list[Instance] = []
        for name in names:
            if now < self._until:
                break
            one = self._one(cloud, name, now)
            if one is not None:
                made.append(one)
        return made

    def _one(self, cloud: Cloud, name: str, now: float) -> Instance | None:
        first = self._unclear.get(name)  # that call may have worked: its answer comes before any other type
        types = [first, *(t for t in self._types if t != first)] if first is not None else self._types
        for type_ in types:
            try:
                one = cloud.launch(self._request(name, type_))
            except Refused as no:
                if no.worth is Worth.THROTTLED:  # the last of several tries; one before it may have worked
                    self._unclear[name] = type_
                else:
                    self._unclear.pop(name, None)
                if no.worth is Worth.USED:  # it has been here, and has ended; or it was another configuration
                    intent = name.rpartition(":")[0]
                    self.bumps[intent] = self.bumps.get(intent, 0) + 1
                    logger.info("%s: launch %s is over (%s); another attempt follows", self._system, name, no)
                    return None
                self._pause(str(no), now)
                if no.worth is not Worth.CAPACITY:
                    return None
            except SystemUnavailable as error:
                self._unclear[name] = type_
                self._pause(str(error).removeprefix("EC2: "), now)
                return None
            else:
                self._unclear.pop(name, None)
                self._refusals, self._until, self._words = 0, 0.0, ""
                logger.info("%s: launched %s (%s) for %s", self._system, one.id, type_, name)
                return one
        return None

    def _pause(self, words: str, now: float) -> None:
        if now >= self._until:  # refusals of several types in one turn are one
            self._refusals += 1
        self._until = now + min(LONGEST, FIRST * 2 ** min(self._refusals - 1, 16))
        if words != self._words:
            logger.warning("%s: EC2 launches nothing: %s", self._system, words)
        self._words = words
