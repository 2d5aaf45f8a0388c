"""As whom a job runs, where its route says so."""

from __future__ import annotations

from collections.abc import Sequence

from jobmill.errors import PermanentError
from jobmill.jobs.spec import JobSpec
from jobmill.rules.route import Route
from jobmill.systems.run_as import RunAs


class Acting:
    """The `run_as` of the routes of one configuration.

    It is the launching side that decides, by its own configuration: what stands in the record can be written by others.
    A job that named its system itself is under the routes to that system like every other.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes: dict[str, list[Route]] = {}  # of the systems to which any route with `run_as` leads
        for name in {name for route in routes if route.run_as is not None for name in route.systems}:
            self._routes[name] = [route for route in routes if name in route.systems]

    def run_as(self, job: JobSpec, system: str) -> RunAs | None:
        """Return that of the first route to the system that allows the job; None: as the system itself says.

        Raises PermanentError where no route does: what one of them protects must not run as the workers' user.
        """
        if system not in self._routes:
            return None
        reasons: list[str] = []
        for route in self._routes[system]:
            refusals = route.refusals(job)
            if not refusals:
                return route.run_as
            reasons += (f"route {route.name}: {reason}" for reason in refusals)
        raise PermanentError(
            f"routes to system '{system}' say as whom jobs run (run_as), and none of them allows this one: "
            + "; ".join(reasons)
        )
