"""All scenarios of the sweep, by name."""

from __future__ import annotations

from tests.chaos.scenarios import cluster, deaths, files, remains, work
from tests.chaos.scenarios.scenario import Scenario

SCENARIOS: dict[str, Scenario] = {
    **work.SCENARIOS,
    **files.SCENARIOS,
    **cluster.SCENARIOS,
    **deaths.SCENARIOS,
    **remains.SCENARIOS,
}
MAY_LOSE = frozenset(  # ends that nobody can know: guard and runner die in them
    {"launcher-killed", "launcher-killed-early", "rebooted", "walltime-orphans"}
    | {name for name in remains.CAUGHT if name.endswith(("-guard-too", "-all"))}
)
RUNNER_DIES = frozenset({"kill-runner", "runners-killed", "walltime-heirs", "spawned", "marker-taken"})


def may_lose(scenario: str, role: str) -> bool:
    """Tell whether a job may be told as lost when a process of this role dies in a scenario."""
    return (
        scenario in MAY_LOSE
        or (role == "guard" and scenario in RUNNER_DIES)
        or (role, scenario) == ("runner", "kill-guard")
    )
