"""The token of a launch, ``<life>:<job id>:<run>``, and the life of a job's id, ``<record>.<arrival>``.

Standard library only, Python 3.6 and later. An id may be used again once its record was pruned. What tells the jobs of
one id apart is the number under which the record admitted each: the arrival, which only ever grows. Launches of a
jobmill that did not tell lives apart yet carry the record alone.
"""


def life(record: str, arrival: int) -> str:
    """Return the life of a job that this record admitted under this number; 0: the number is not known."""
    return "%s.%d" % (record, arrival) if arrival else record


def record_and_arrival(life_: str) -> "tuple[str, int]":
    """Return (record, arrival) of a life; the arrival of one without a number is 0."""
    record, dot, arrival = life_.rpartition(".")
    if dot and record and arrival.isdecimal() and arrival[0] in "123456789":  # as `life` writes it
        return record, int(arrival)
    return life_, 0


def split(token: str) -> "tuple[str, str, int]":
    """Return (life, job id, run) of a token ``<life>:<job id>:<run>``; raise ValueError for anything else."""
    life_, job, run = token.rsplit(":", 2)
    if not life_ or not job or "/" in job or job in (".", "..") or any(c.isspace() for c in token):
        raise ValueError("%r is not a token <life>:<job id>:<run>" % token)
    return life_, job, int(run)


def life_of(token: str) -> str:
    """Return the life of a token; raise ValueError for what is none."""
    return split(token)[0]


def earlier(life_: str, other: str) -> bool:
    """Tell whether one life certainly came before another: of one record, under a lower number."""
    record, arrival = record_and_arrival(life_)
    record_of_other, arrival_of_other = record_and_arrival(other)
    return record == record_of_other and 0 < arrival < arrival_of_other


def unnumbered(life_: str, other: str) -> bool:
    """Tell whether a life may be the other one, written before lives were told apart."""
    return record_and_arrival(life_) == (record_and_arrival(other)[0], 0)
