"""What the commands of PBS Pro and of Torque, which have one ancestor, share: ids, orders, refusals, times."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from jobmill.errors import SystemUnavailable
from jobmill.systems import launch_token
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.command_line import Answer, CommandLine
from jobmill.systems.system import SubmitError, SubmitFailure, Token

VARIABLE = "JOBMILL_LAUNCH"  # of a job; not the name by which a launch's processes are found and killed
CHUNK = 500  # ids in one command
UNKNOWN_ID = 153  # exit code: PBSE_UNKJOBID, 15001, of which an exit code has eight bits
ID = re.compile(r"([0-9]{1,18})(?:\.[^\s/\[\]]+)?", re.ASCII)  # 12, 12.server; 12[].server is an array, never ours
DOWN = re.compile(r"cannot connect to server|Couldn't connect|Connection refused|Unknown Host|pbsconf error", re.I)
OWN_WORDS = re.compile(r"\b(?:select|nodes|procs|ncpus|mem)=")  # of resources in native words: ours cannot be beside
_UNCLEAR = re.compile(r"End of File|Premature end|communication failure|Protocol|timed? ?out|reset by peer", re.I)
_LIMIT = re.compile(r"would exceed|[Mm]aximum number of jobs|limit on (?:the )?number of jobs", re.I)
_LATER = re.compile(
    r"Queue is not enabled|shutting down|No free connections|busy|No space left|Resource temporarily", re.I
)


def number_of(native: str) -> str | None:
    """Return the number of a job's id, without its server; None for an array, or for what is no id."""
    found = ID.fullmatch(native.strip())
    return found[1] if found else None


def told_number(answer: Answer) -> str | SubmitError:
    """Return the number that qsub printed; banners go before it."""
    lines = answer.out.strip().splitlines()
    number = number_of(lines[-1]) if lines and answer.out.endswith("\n") else None
    if number is None:
        return SubmitError(failure=SubmitFailure.UNCLEAR, message=f"qsub gave no job id: {answer.words}")
    return number


def refusal(answer: Answer) -> SubmitError:
    """Return what a refusal by qsub is worth; raise SystemUnavailable where its server is away."""
    if DOWN.search(answer.err):
        raise SystemUnavailable(answer.words)
    for pattern, failure in (
        (_UNCLEAR, SubmitFailure.UNCLEAR),
        (_LIMIT, SubmitFailure.LIMIT),
        (_LATER, SubmitFailure.TRANSIENT),
    ):
        if pattern.search(answer.err):
            return SubmitError(failure=failure, message=answer.words)
    return refused(answer.words)


def refused(message: str) -> SubmitError:
    """Return a refusal for good."""
    return SubmitError(failure=SubmitFailure.PERMANENT, message=message)


def name(token: Token) -> str:
    """Return the job's name: its id."""
    return launch_token.split(token)[1]


def walltime(seconds: float) -> str:
    """Return whole minutes, rounded up, as HH:MM:SS: our program on the node keeps the second."""
    minutes = max(1, math.ceil(seconds / 60))
    return f"{minutes // 60:02}:{minutes % 60:02}:00"


def chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    """Return as many items at once as one command takes."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def release(commands: CommandLine, ids: Sequence[str]) -> None:
    """Release held jobs; one that is gone, or was released, does not disturb the others."""
    for some in chunks(ids):
        answer = commands.call(["qrls", *some])
        if answer.code and DOWN.search(answer.err):
            raise SystemUnavailable(answer.words)


def cancel(commands: CommandLine, rows: Sequence[Row], *, force: bool) -> None:
    """Take jobs out of line, and signal what runs: our program on the node hands it on."""
    running = [row.native for row in rows if row.phase is Phase.RUNNING and row.state == "R"]
    # a signal does not reach what is suspended, and a job that left for another server is ended through ours
    delete(commands, [row.native for row in rows if row.native not in running and row.phase is not Phase.LEAVING])
    for some in chunks(running):
        commands.call(["qsig", "-s", "SIGUSR2" if force else "SIGTERM", *some])


def delete(commands: CommandLine, ids: Sequence[str]) -> None:
    """Have the server end jobs. Not by force: that tells an end while processes live on."""
    for some in chunks(ids):
        commands.call(["qdel", *some])
