"""Asked by lines of JSON, in Soma-Workflow's own environment: its controller, used as its manual says.

A workflow of independent jobs for each batch, named after its first job, so that a submit that was not answered is
found when it is said again.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # the library prints

from soma_workflow.client import Job, Workflow, WorkflowController  # type: ignore[import-not-found]  # noqa: E402


def submit(controller: Any, name: str, jobs: list[dict[str, Any]]) -> int:
    """Submit a workflow unless it is there; return its id."""
    known = {row[0]: wf_id for wf_id, row in controller.workflows().items()}
    if name in known:
        return int(known[name])
    made = [Job(command=job["argv"], name=job["id"]) for job in jobs]
    return int(controller.submit_workflow(Workflow(jobs=made, name=name), name=name))


def told(controller: Any) -> dict[str, Any]:
    """Return of each workflow its status and its jobs: name, status, exit status, value, signal."""
    found = {}
    for wf_id, row in controller.workflows().items():
        elements = controller.workflow_elements_status(wf_id)
        names = {job_id: job[0] for job_id, job in controller.jobs([e[0] for e in elements[0]]).items()}
        jobs = [[names.get(e[0], ""), e[1], *e[3][:3]] for e in elements[0]]
        found[row[0]] = {"id": wf_id, "status": controller.workflow_status(wf_id), "jobs": jobs}
    return found


def restart(controller: Any, wf_id: int, stop: bool) -> None:
    """Run the jobs of a workflow that failed again; ``stop``: it does not move, so it is stopped first."""
    if stop:
        controller.stop_workflow(wf_id)
    controller.restart_workflow(wf_id)


def main() -> None:
    """Answer every line."""
    controller = WorkflowController(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["do"] == "submit":
                answer: Any = submit(controller, asked["name"], asked["jobs"])
            elif asked["do"] == "restart":
                answer = restart(controller, asked["id"], asked["stop"])
            else:
                answer = told(controller)
            row = {"answer": answer}
        except Exception as error:  # whatever the library raises is no answer
            row = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(row), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
