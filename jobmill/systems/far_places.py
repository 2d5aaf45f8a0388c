"""Where launches are: on which of several hosts, by asking them. What one host knows is not changed by another's no."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import far_words, launch_token
from jobmill.systems.desk import DEADLINE, ask_all
from jobmill.systems.far_host import FarHost
from jobmill.systems.system import Token

NO_MARKER = ("no marker", "rebooted since")
PRUNE = 600.0  # seconds between two looks for what ended long ago
MOST = 100_000  # launches whose host is kept in mind

Ages = Mapping[Token, float]  # seconds for which a launch may have been under way
Gone = Mapping[Token, str]  # launches that may be on hosts which are configured no more -> that, in words


class Places:
    """The launches on a number of hosts, which may come and go."""

    def __init__(self, hosts: Mapping[str, FarHost], keep: float | None) -> None:
        """``keep``: seconds for which run folders of ended launches stay there; None: for ever."""
        self._hosts, self._keep = hosts, keep
        self._prune_at = 0.0
        self._known: dict[Token, str] = {}  # launches that were seen on a host, and not as sealed there

    def of(self, token: Token) -> FarHost | None:
        """Return the host on which a launch was seen."""
        return self._hosts.get(self._known.get(token, ""))

    def name(self, token: Token) -> str | None:
        """Return the name of the host on which a launch was seen, also of one that has gone since."""
        return self._known.get(token)

    def forget(self, tokens: Sequence[Token]) -> None:
        """Keep no longer in mind where these are."""
        for token in tokens:
            self._known.pop(token, None)

    def look(self, asked: Ages, gone: Gone, *, deadline: float = DEADLINE) -> dict[Token, dict[str, Any]]:
        """Return the fields of an Observation for each launch.

        Absent means that every host has answered and none has it, sealed that all have its marker and none starts it.
        One that may be on a host which is configured no more is unknown, unless another has it. Raises
        SystemUnavailable when no host that was asked answers.
        """
        looks: dict[Token, dict[str, Any]] = {}
        silent: list[tuple[FarHost, list[Token], str]] = []
        for host, tokens, answer in self._ask("observe", asked, deadline):
            if isinstance(answer, SystemUnavailable):
                silent.append((host, tokens, str(answer)))
                continue
            for token, look in zip(tokens, answer, strict=True):
                known = looks.get(token)
                if look["state"] == "absent" and look.get("reason") in NO_MARKER:
                    if known is None or known.get("sealed"):
                        looks[token] = look
                elif look.get("bare"):  # one machine may be two hosts, and the other has its folder
                    if known is None or known["state"] == "absent" or known.get("sealed"):
                        looks[token] = look
                elif look.get("sealed"):
                    looks.setdefault(token, look)
                else:
                    self._note(token, host.name)
                    looks[token] = look
        if silent and not looks:
            raise SystemUnavailable("; ".join(why for _, _, why in silent))
        for host, tokens, why in silent:
            for token in tokens:
                if self._known.get(token) in (None, host.name):
                    looks[token] = {"state": "unknown", "reason": why}
        for token, why in gone.items():
            if self.of(token) is None:
                looks[token] = {"state": "unknown", "reason": why}
        return looks

    def exits(self, asked: Ages) -> dict[Token, str]:
        """Return the exit records of launches that have ended, as `look` told."""
        found: dict[Token, str] = {}
        for host, tokens, answer in self._ask("exits", asked, DEADLINE):
            if not isinstance(answer, SystemUnavailable):
                for token, text in zip(tokens, answer, strict=True):
                    if text is not None and (token not in found or self._known.get(token) == host.name):
                        found[token] = text
        return found

    def settle(self, asked: Ages, gone: Gone) -> dict[Token, str]:
        """Settle launches: on the host that has it, else on all of them, and only when all of them answer."""
        words: dict[Token, str] = {}
        looks = self.look(asked, gone)
        sure = {token: age for token, age in asked.items() if looks.get(token, {}).get("state", "unknown") != "unknown"}
        for _, tokens, answer in self._ask("settle", sure, DEADLINE):
            if isinstance(answer, SystemUnavailable):
                words.update(dict.fromkeys(tokens, "unknown"))
                continue
            for token, word in zip(tokens, answer, strict=True):
                words[token] = min(words.get(token, word), word, key=_RANK.index)
        return words

    def kill(self, asked: Ages, gone: Gone, force: bool) -> dict[Token, bool]:
        """Kill launches: where they are, else keep them from starting everywhere; True: proved."""
        looks = self.look(asked, gone)
        proved = {token: looks.get(token, {}).get("state", "unknown") != "unknown" for token in asked}
        for _, tokens, answer in self._ask("kill", asked, DEADLINE, force=force):
            for i, token in enumerate(tokens):
                proved[token] = proved[token] and not isinstance(answer, SystemUnavailable) and bool(answer[i])
        return proved

    def tidy(self, asked: Ages) -> None:
        """Let hosts drop what was staged for launches that need it no more, and now and then what ended long ago."""
        self._ask("tidy", {token: age for token, age in asked.items() if self.of(token)}, DEADLINE)
        if self._keep is None or time.monotonic() < self._prune_at or not asked:
            return
        self._prune_at = time.monotonic() + PRUNE
        record = launch_token.record_and_arrival(launch_token.life_of(next(iter(asked))))[0]
        ask_all([(host.desk(record), {"older": self._keep}) for host in self._hosts.values()], "prune")

    def _ask(
        self, verb: str, asked: Ages, deadline: float, **values: Any
    ) -> list[tuple[FarHost, list[Token], Any | SystemUnavailable]]:
        """Ask each host of its launches, and every host of those that are not known to be on one."""
        questions: list[tuple[FarHost, str, list[Token]]] = []
        records: dict[str, list[Token]] = {}
        for token in asked:
            record = launch_token.record_and_arrival(launch_token.life_of(token))[0]
            records.setdefault(record, []).append(token)
        for record, tokens in records.items():
            for host in self._hosts.values():
                mine = [token for token in tokens if (self.of(token) or host) is host]
                if mine:
                    questions.append((host, record, mine))
        put = [
            (host.desk(record), {"launches": [(token, asked[token]) for token in mine], **values})
            for host, record, mine in questions
        ]
        answers = ask_all(put, verb, deadline=deadline)
        return [
            (host, mine, _understood(host, verb, mine, answer))
            for (host, _, mine), answer in zip(questions, answers, strict=True)
        ]

    def _note(self, token: Token, host: str) -> None:
        self._known[token] = host
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]


_RANK = ("adopt", "unknown", "lost", "not_started")  # which of several hosts' answers holds
_MEANING: Mapping[str, Callable[[Any], Any]] = {
    "observe": far_words.look,
    "exits": lambda text: None if text is None else far_words.record(text),
    "settle": far_words.word,
    "kill": lambda gone: gone is True,
}


def _understood(host: FarHost, verb: str, tokens: Sequence[Token], answer: Any) -> Any | SystemUnavailable:
    """Return an answer made of what it may hold; a host that says anything else is as good as silent."""
    if verb not in _MEANING or isinstance(answer, SystemUnavailable):
        return answer
    try:
        if not isinstance(answer, list) or len(answer) != len(tokens):
            raise ValueError("it is no list with a word for each launch")
        return [_MEANING[verb](value) for value in answer]
    except (ValueError, TypeError) as error:
        return SystemUnavailable(f"{host.name}: its desk answers nonsense: {error}")
