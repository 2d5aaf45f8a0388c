"""The states and ends of Torque's jobs.

Sources: qstat(1B), "job state"; the exit codes of the server and its nodes:
https://docs.adaptivecomputing.com/torque/6-1-2/adminGuide/Content/topics/torque/2-jobs/jobExitStatus.htm, JOB_EXEC_… in
https://github.com/adaptivecomputing/torque/blob/master/src/include/pbs_job.h; 256 and a signal: mom_start.c there;
271 of what was cancelled: http://kb.adaptivecomputing.com/phpmyfaq/index.php?action=artikel&cat=1&id=90
"""

from __future__ import annotations

from collections.abc import Mapping

from jobmill.systems.batch_row import Phase

STATES: Mapping[str, Phase] = {
    "H": Phase.QUEUED,  # waits for a hold to be lifted; ours: `HOLD`
    "Q": Phase.QUEUED,
    "W": Phase.QUEUED,  # for its time
    "T": Phase.QUEUED,  # on its way to another queue
    "R": Phase.RUNNING,
    "S": Phase.RUNNING,  # suspended
    "E": Phase.LEAVING,
}
COMPLETED = "C"  # told for as long as the server's keep_completed says
HOLD = "u"  # the hold of `qsub -h`, among the letters of Hold_Types: u, o, s
KILLS: Mapping[int, Phase] = {  # exit_status below zero: the node ended it, or never started it
    -4: Phase.NODE_FAIL,  # JOB_EXEC_INITABT: the node's daemon came up again without it
    -5: Phase.NODE_FAIL,  # JOB_EXEC_INITRST
    -6: Phase.NODE_FAIL,  # JOB_EXEC_INITRMG
    -10: Phase.OOM,  # JOB_EXEC_OVERLIMIT_MEM
    -11: Phase.TIMEOUT,  # JOB_EXEC_OVERLIMIT_WT
    -12: Phase.TIMEOUT,  # JOB_EXEC_OVERLIMIT_CPUT
}
SIGNALLED = 256  # exit_status from here on: this, and the signal that ended the first process
CANCELLED = SIGNALLED + 15


def phase_of(state: str, holds: str, status: int | None, *, ran: bool) -> Phase:
    """Return the phase of a job by its attributes job_state, Hold_Types and exit_status (None: not told).

    ``ran``: it has been on a node.
    """
    if state == "H" and HOLD in holds:
        return Phase.HELD
    if state != COMPLETED:
        return STATES.get(state, Phase.UNKNOWN)
    if not ran or status == CANCELLED:
        return Phase.CANCELLED
    if status is None or status == 0:  # without it nothing contradicts our record, and success needs a record
        return Phase.COMPLETED
    return KILLS.get(status, Phase.FAILED)
