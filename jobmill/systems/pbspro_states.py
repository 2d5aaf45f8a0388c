"""The states and ends of PBS Pro's jobs.

Sources: qstat(1B), "Job States"; substates and exit values: JOB_SUBSTATE_… and JOB_EXEC_… in
https://github.com/openpbs/openpbs/blob/master/src/include/job.h; the kills below -24 as the PBS Reference Guide has
them and as OpenPBS 23.06.06 says them.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobmill.systems.batch_row import Phase

STATES: Mapping[str, Phase] = {
    "H": Phase.QUEUED,  # waits for a hold to be lifted; ours: `HOLD`
    "Q": Phase.QUEUED,
    "W": Phase.QUEUED,  # for its time
    "T": Phase.QUEUED,  # on its way to another queue
    "B": Phase.RUNNING,  # an array that has begun
    "R": Phase.RUNNING,
    "S": Phase.RUNNING,  # suspended by the scheduler
    "U": Phase.RUNNING,  # suspended: its workstation is in use
    "E": Phase.LEAVING,
    "M": Phase.UNREACHABLE,  # moved to another server, which alone knows
}
ENDED = ("F", "X")  # X: one of an array
HOLD = "u"  # the hold of `qsub -h`, among the letters of Hold_Types: u, o, s, p
DELETED = 91  # substate of what was ended by a request (qdel, preemption by deletion)
FINISHED = 92  # of what ended with 0
KILLS: Mapping[int, Phase] = {  # Exit_status below zero: the server or the node ended it, or never started it
    -29: Phase.TIMEOUT,  # walltime
    -28: Phase.TIMEOUT,  # cput
    -27: Phase.OOM,  # mem
    -26: Phase.OOM,  # vmem
    -20: Phase.NODE_FAIL,  # the connection to the first node was lost
    -14: Phase.NODE_FAIL,  # another node was lost
    -6: Phase.NODE_FAIL,  # the node's daemon came up again without it
    -5: Phase.NODE_FAIL,
    -4: Phase.NODE_FAIL,
}
SIGNALLED = 256  # Exit_status from here on: this, and the signal that ended the first process


def phase_of(state: str, holds: str, substate: int | None, status: int | None) -> Phase:
    """Return the phase of a job by its attributes job_state, Hold_Types, substate and Exit_status (None: not told)."""
    if state == "H" and HOLD in holds:
        return Phase.HELD
    if state not in ENDED:
        return STATES.get(state, Phase.UNKNOWN)
    if substate == DELETED:
        return Phase.CANCELLED
    if status is None:  # it never ran: what it depended on failed, which has the substate of success
        return Phase.CANCELLED if substate == FINISHED else Phase.FAILED
    if status < 0:
        return KILLS.get(status, Phase.FAILED)
    return Phase.COMPLETED if status == 0 and substate in (FINISHED, None) else Phase.FAILED
