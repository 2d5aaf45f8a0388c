"""A route: rules that must all say yes, and the systems that a job then goes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobmill.errors import ConfigError, nearest
from jobmill.jobs.spec import JobSpec
from jobmill.rules.rule import Rule
from jobmill.systems.registry import system_class
from jobmill.systems.run_as import OPTIONS, RunAs

KEYS = ("name", "rules", "system", "systems", *OPTIONS)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One entry of ``routes:``."""

    name: str
    systems: tuple[str, ...]  # names, best first
    rules: tuple[Rule, ...] = ()  # none: every job may take it
    run_as: RunAs | None = None  # None: its jobs run as whom the system says

    def refusals(self, job: JobSpec) -> list[str]:
        """Return the reasons of every rule that says no; empty: the route allows the job."""
        return [reason for rule in self.rules if (reason := rule.refusal(job)) is not None]

    @classmethod
    def parse(cls, entry: Any, where: str) -> Route:
        """Read ``{name: …, rules: […], system: name or [names]}``; raise ConfigError, which begins with ``where``."""
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where}: a route is a mapping with name, rules and system")
        for key in entry:
            if key not in KEYS:
                raise ConfigError(f"{where}: unknown key '{key}'{nearest(str(key), KEYS)}; known: {', '.join(KEYS)}")
        if "system" in entry and "systems" in entry:
            raise ConfigError(f"{where}: say `system` or `systems`, not both")
        systems = entry.get("system", entry.get("systems"))
        systems = [systems] if isinstance(systems, str) else systems
        if not systems or not isinstance(systems, list | tuple) or not all(isinstance(name, str) for name in systems):
            raise ConfigError(f"{where}: `system` must be the name of a system or a list of names, best first")
        rules = entry.get("rules") or []
        if isinstance(rules, Mapping):  # `rules: {user_is: ann, queue_is: long}` reads as well as a list
            rules = [{name: params} for name, params in rules.items()]
        if not isinstance(rules, list | tuple):
            raise ConfigError(f"{where}: `rules` must be a list")
        name = str(entry.get("name") or "-".join(systems))
        parsed = tuple(Rule.parse(rule, f"{where}.rules[{number}]") for number, rule in enumerate(rules))
        return cls(name=name, systems=tuple(systems), rules=parsed, run_as=RunAs.of(entry, where))


def parse_routes(entries: Iterable[Mapping[str, Any]], kinds: Mapping[str, str]) -> tuple[Route, ...]:
    """Read ``routes:`` of a configuration whose systems are of these ``kinds``.

    Raises ConfigError for a rule that nobody knows, and for a `run_as` that one of the systems cannot keep.
    """
    found = []
    for entry in entries:
        where = f"routes: {entry['name']}"
        found.append(route := Route.parse(entry, where))
        for name in route.systems if route.run_as is not None else ():
            if name in kinds and not system_class(kinds[name]).runs_as_users:
                raise ConfigError(
                    f"{where}.run_as: jobs of system '{name}' (kind {kinds[name]}) cannot run as their users; those of "
                    "kind local and ssh can"
                )
    return tuple(found)
