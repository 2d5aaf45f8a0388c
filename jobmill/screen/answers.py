"""What became of a wish, job by job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobmill.jobs.states import ENDED
from jobmill.screen import terminal


@dataclass(frozen=True, kw_only=True)
class Verb:
    """How the answers to one verb read."""

    good: Mapping[str, str]  # answer -> what it means, where the wish was granted
    refused: str  # said of any other state
    unknown: str  # said of an id that nobody knows


NOBODY = "there is no such job (jobmill list)"
CANCEL = Verb(
    good={"cancelled": "cancelled", "wished": "will be cancelled: it is being ended"},
    refused="has ended already: {}",
    unknown="is not in the record; should it still come out of Job_Queue today, it is cancelled then",
)
RETRY = Verb(good={"waiting": "runs again"}, refused="has not ended, it is {}", unknown=NOBODY)
HOLD = Verb(good={"held": "held"}, refused="cannot be held, it is {}", unknown=NOBODY)
RELEASE = Verb(
    good={"waiting": "released", "later": "released; its start is later"},
    refused="is not held, it is {}",
    unknown=NOBODY,
)


def show_answers(answers: Mapping[str, str], verb: Verb, *, as_json: bool) -> int:
    """Write each job's answer; return 0 when each wish was granted, 2 for an unknown id, else 1."""
    granted = [i for i, answer in answers.items() if answer in verb.good]
    unknown = [i for i, answer in answers.items() if answer == "unknown"]
    if as_json:
        terminal.say_json(dict(answers))
    else:
        for job_id, answer in answers.items():
            if answer in verb.good:
                terminal.say(f"{job_id}  {verb.good[answer]}")
            else:
                words = verb.unknown if answer == "unknown" else verb.refused.format(answer)
                terminal.note(f"{terminal.clean(job_id)}  {words}")
    if unknown:
        return 2
    harmless = verb is CANCEL and all(a in ENDED for i, a in answers.items() if i not in granted)
    return 0 if len(granted) == len(answers) or harmless else 1
