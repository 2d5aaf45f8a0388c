"""The states and ends of LSF's jobs.

Sources: bjobs(1), "STAT"; https://www.bsc.es/support/LSF/old-9.1.1/lsf_admin/job_state_lsf.html; the reasons:
https://www.ibm.com/docs/SSWRJV_10.1.0/lsf_admin/termination_reasons_lsf.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobmill.systems.batch_row import Phase

STATES: Mapping[str, Phase] = {
    "PSUSP": Phase.HELD,  # suspended while pending: `bsub -H`, bstop
    "PEND": Phase.QUEUED,
    "FWD_PEND": Phase.QUEUED,  # forwarded to another cluster
    "WAIT": Phase.QUEUED,  # a member of a chunk that waits for the one before it
    "PROV": Phase.RUNNING,  # its host is being powered on
    "RUN": Phase.RUNNING,
    "USUSP": Phase.RUNNING,  # suspended by its owner
    "SSUSP": Phase.RUNNING,  # suspended by LSF
    "UNKWN": Phase.UNREACHABLE,  # the daemon of its host is out of reach
    "ZOMBI": Phase.UNREACHABLE,  # killed while its host is out of reach: its processes may live
    "DONE": Phase.COMPLETED,
    "POST_DONE": Phase.COMPLETED,  # what goes after a job ended, too
    "POST_ERR": Phase.COMPLETED,  # that failed; the job did not
    "EXIT": Phase.FAILED,  # and `REASONS`
}
REASONS: Mapping[str, Phase] = {
    "TERM_RUNLIMIT": Phase.TIMEOUT,
    "TERM_CPULIMIT": Phase.TIMEOUT,
    "TERM_DEADLINE": Phase.TIMEOUT,
    "TERM_MEMLIMIT": Phase.OOM,
    "TERM_SWAP": Phase.OOM,
    "TERM_PREEMPT": Phase.PREEMPTED,
    "TERM_LOAD": Phase.PREEMPTED,  # the load of its host passed a threshold
    "TERM_WINDOW": Phase.PREEMPTED,  # its queue's run window closed
    "TERM_RC": Phase.PREEMPTED,  # its host was reclaimed by the cloud
    "TERM_ZOMBIE": Phase.NODE_FAIL,  # it ended while LSF was away
    "TERM_REMOVE_HUNG_JOB": Phase.NODE_FAIL,
    "TERM_CSM_ALLOC": Phase.NODE_FAIL,
    "TERM_RMS": Phase.NODE_FAIL,
    "TERM_SLURM": Phase.NODE_FAIL,
    "TERM_OWNER": Phase.CANCELLED,
    "TERM_ADMIN": Phase.CANCELLED,
    "TERM_FORCE_OWNER": Phase.CANCELLED,
    "TERM_FORCE_ADMIN": Phase.CANCELLED,
    "TERM_BUCKET_KILL": Phase.CANCELLED,
    "TERM_ORPHAN_SYSTEM": Phase.CANCELLED,  # what it depended on is gone
    "TERM_MC_RECALL": Phase.CANCELLED,
}
_TERM = re.compile(r"TERM_[A-Z_]+")


def phase_of(state: str, reason: str = "") -> Phase:
    """Return the phase of a native state; ``reason``: the exit reason, ``TERM_OWNER: job killed by owner``."""
    found = STATES.get(state, Phase.UNKNOWN)
    if found is Phase.FAILED and (term := _TERM.search(reason)):
        return REASONS.get(term[0], Phase.FAILED)
    return found
