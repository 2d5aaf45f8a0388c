"""Chooses the system of each job: the one it names, or that of the first route whose rules all agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobmill.errors import ConfigError, UnknownName, nearest
from jobmill.jobs.registry import job_class
from jobmill.jobs.spec import JobSpec
from jobmill.rules.route import Route


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where a job goes, or why nowhere."""

    system: str | None  # None: refused
    route: str | None = None  # the route that allowed it; None: it named its system, or there is only one
    refusals: tuple[str, ...] = ()  # `route big: user_is: …` for each reason met on the way, kept to explain the choice

    @property
    def message(self) -> str:
        """One line for the user of a refused job."""
        return "; ".join(self.refusals)


class Dispatcher:
    """The routes of one configuration. Plain values, no clock, no network: the same job gets the same answer."""

    def __init__(self, *, systems: Mapping[str, str], routes: Sequence[Route] = ()) -> None:
        """``systems``: name → kind of every configured one. Raises ConfigError for a route to one that is not."""
        self._systems = dict(systems)
        self._routes = tuple(routes)
        for route in self._routes:
            for name in route.systems:
                if name not in self._systems:
                    raise ConfigError(f"route '{route.name}': {self._unknown(name)}")
        self._only = None if len(self._systems) != 1 or self._routes else Choice(system=next(iter(self._systems)))
        if len({route.name for route in self._routes}) < len(self._routes):
            twice = next(r.name for n, r in enumerate(self._routes) if r.name in {s.name for s in self._routes[:n]})
            raise ConfigError(f"there are several routes named '{twice}'; give each its own name")

    def choose(self, job: JobSpec) -> Choice:
        """Return the choice for a job; never raises for what the job says."""
        kinds: frozenset[str] | None = None
        if self._only is not None and job.class_type is None and job.system is None:
            return self._only
        if job.class_type is not None:
            try:
                kinds = job_class(job.class_type).kinds
            except (UnknownName, ConfigError) as error:
                return Choice(system=None, refusals=(str(error),))
        if job.system is not None:
            reason = self._cannot(job.system, job, kinds)
            return Choice(system=None, refusals=(reason,)) if reason else Choice(system=job.system)
        if not self._routes:
            return self._without_routes(job, kinds)
        refusals: list[str] = []
        for route in self._routes:
            reasons = route.refusals(job)
            if not reasons:
                reasons = []
                for name in route.systems:
                    reason = self._cannot(name, job, kinds)
                    if reason is None:
                        return Choice(system=name, route=route.name, refusals=tuple(refusals))
                    reasons.append(reason)
            refusals += (f"route {route.name}: {reason}" for reason in reasons)
        return Choice(system=None, refusals=("no route allows this job", *refusals))

    def _without_routes(self, job: JobSpec, kinds: frozenset[str] | None) -> Choice:
        """One system: that one. Several: the only one that the job's class can run on, if it is the only one."""
        possible = [name for name in self._systems if self._cannot(name, job, kinds) is None]
        if len(possible) == 1 and (len(self._systems) == 1 or kinds is not None):
            return Choice(system=possible[0])
        if len(self._systems) == 1 or (kinds is not None and not possible):
            reasons = tuple(filter(None, (self._cannot(name, job, kinds) for name in self._systems)))
            return Choice(system=None, refusals=reasons)
        listed = ", ".join(possible) or "none is configured"
        words = f"the job names no system, there are no routes, and there are several systems: {listed}"
        return Choice(system=None, refusals=(f"{words}; add `system: <name>` to the job or `routes:` to jobmill.yaml",))

    def _cannot(self, name: str, job: JobSpec, kinds: frozenset[str] | None) -> str | None:
        """Return why a job cannot run on the system of this name, or None."""
        kind = self._systems.get(name)
        if kind is None:
            return self._unknown(name)
        if kinds is not None and kind not in kinds:
            return (
                f"ClassType '{job.class_type}' runs on systems of kind {' or '.join(sorted(kinds))}, "
                f"and '{name}' is of kind {kind}"
            )
        return None

    def _unknown(self, name: str) -> str:
        known = ", ".join(sorted(self._systems)) or "none is configured"
        return f"unknown system '{name}'{nearest(name, self._systems)}; known: {known}"
