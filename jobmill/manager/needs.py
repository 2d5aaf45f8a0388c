"""Which sets and amounts a job takes, all or none, and whether they can ever be enough."""

from __future__ import annotations

from collections.abc import Mapping

from jobmill.errors import SpecError
from jobmill.jobs.spec import JobSpec, Resources


class Needs:
    """Computes the `needs` of jobs; ``limits`` is refreshed by the manager about once a second."""

    def __init__(self, sets: Mapping[str, str]) -> None:
        self._sets = dict(sets)  # system -> its in-queue set
        self.limits = {}

    @property
    def limits(self) -> Mapping[str, int]:
        """Return set or amount -> its limit."""
        return self._limits

    @limits.setter
    def limits(self, limits: Mapping[str, int]) -> None:
        self._limits = limits
        self._amounts: dict[tuple[str, int | None, int | None, int | None], str] = {}  # many jobs want the same
        self._named = any(name.startswith(("User:", "Project:", "Queue:")) for name in limits)

    def of(self, spec: JobSpec, system: str) -> str:
        """Return the words that the grant reads: ``LocalJobs local.cpus=4``; raise SpecError when it can never fit.

        A job that takes nothing but a place in its system's set has none: the grant knows that set.
        """
        resources = spec.resources
        words = ""
        if resources is not None:
            wanted = (system, resources.cpus, resources.memory, resources.gpus)
            found = self._amounts.get(wanted)
            if found is None:
                found = self._amounts[wanted] = self._in_words(system, resources)
            words = found
        if self._named:
            for name in (f"User:{spec.user}", f"Project:{spec.project}", f"Queue:{spec.queue}"):
                if name in self.limits and " " not in name:
                    words += " " + name
        return self._sets[system] + words if words else ""

    def _in_words(self, system: str, resources: Resources) -> str:
        words = ""
        if (resources.cpus or 1) > 1:
            words += self._amount(system, "cpus", resources.cpus or 1, "")
        if resources.memory:
            words += self._amount(system, "memory", resources.memory, " MiB")
        if resources.gpus:
            words += self._amount(system, "gpus", resources.gpus, "")
        return words

    def _amount(self, system: str, resource: str, wanted: int, unit: str) -> str:
        name = f"{system}.{resource}"
        limit = self.limits.get(name)
        if limit is not None and wanted > limit:
            raise SpecError(
                f"resources.{resource}: {wanted}{unit} wanted, system {system} has {limit}{unit} in all; "
                f"ask for less, name another system, or raise it: jobmill capacity set {name} {wanted}"
            )
        return f" {name}={wanted}"
