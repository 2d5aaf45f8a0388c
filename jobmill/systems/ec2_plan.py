"""What a fleet does next: which instances to launch, and which to end. Pure: one look at everything in, decisions out.

A launch is made for a waiting job, its *intent*: the job's life and id, and how many instances bear its name already.
So whoever leads after a crash, on whatever machine, comes to the same name, the same client token, the same instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from jobmill.systems.ec2_instance import Instance
from jobmill.systems.ec2_options import Ec2Options


@dataclass(frozen=True, kw_only=True)
class Want:
    """A job that waits for a slot."""

    intent: str  # `<life>:<job id>`
    slots: int = 1


@dataclass(frozen=True, kw_only=True)
class Use:
    """What is known of one live instance beyond EC2's words; times are seconds of one clock."""

    taken: int | None = None  # slots by what runs there, or was not fetched yet; None: it does not answer
    met: bool = False  # it has answered before
    idle_since: float | None = None  # since when nothing is there
    silent_since: float | None = None  # since when it does not answer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions of one turn."""

    launch: Sequence[str] = ()  # names of launches, `<life>:<job id>:<attempt>`
    end: Mapping[str, str] = field(default_factory=dict)  # instance id -> why
    held: str = ""  # why no more is launched though jobs wait


def plan(
    options: Ec2Options,
    instances: Sequence[Instance],
    use: Mapping[str, Use],
    waiting: Sequence[Want],
    *,
    now: float,  # seconds, of the clock of ``use``
    age: Mapping[str, float],  # seconds since each live instance's launch
    spent: float,  # dollars of the last 24 hours
    bumps: Mapping[str, int] | None = None,  # attempts of an intent that EC2 knows, and does not show
) -> Plan:
    """Decide; ``instances`` are all that EC2 shows with our tags, ended ones too."""
    live = [it for it in instances if it.live]
    free = {it.id: _free(options, it, use.get(it.id, Use())) for it in live}
    sponsors = _beyond(waiting, free, options.slots)
    end = {it.id: f"it is {it.state}" for it in instances if it.state in ("stopped", "stopping")}
    needed = {id_ for id_, slots in free.items() if slots < options.slots}  # after the waiting ones were put there
    over = len(live) - options.max_instances
    for it in sorted(live, key=lambda it: it.launched, reverse=True):
        why = _why_end(options, use.get(it.id, Use()), now, age.get(it.id, 0.0), over > len(end), it.id in needed)
        if why:
            end[it.id] = why
    launch, held = _launches(options, instances, sponsors, spent, bumps or {})
    return Plan(launch=launch, end=end, held=held)


def _free(options: Ec2Options, it: Instance, use: Use) -> int:
    """Return the slots that jobs may count on there: of one that boots, all; of one that fell silent, none."""
    if use.taken is None:
        return 0 if use.met else options.slots
    return max(0, options.slots - use.taken)


def _beyond(waiting: Iterable[Want], free: dict[str, int], slots: int) -> list[Want]:
    """Put the waiting into free slots, first fit; return one of them for each further instance that they need."""
    sponsors: list[Want] = []
    for want in waiting:
        if want.slots > slots:
            continue  # there will never be room
        place = next((id_ for id_, left in free.items() if left >= want.slots), None)
        if place is None:
            place = f"new {len(sponsors)}"
            free[place] = slots
            sponsors.append(want)
        free[place] -= want.slots
    return sponsors


def _why_end(options: Ec2Options, use: Use, now: float, age: float, over: bool, needed: bool) -> str:
    """Return why a live instance has to go, or nothing."""
    silent = None if use.silent_since is None else now - use.silent_since
    if use.taken is None and not use.met and age > options.boot and (silent is None or age - silent <= options.boot):
        return f"it did not come up in {options.boot:.0f} s (boot)"
    # One that was old when we first looked may have come up for a leader before us, and be at work: it has its lease.
    if use.taken is None and silent is not None and silent > 2 * options.lease:
        return f"it has been silent for {silent:.0f} s, longer than its lease"
    if use.taken == 0 and use.idle_since is not None:
        if over:
            return f"there are more than {options.max_instances} (max_instances)"
        if not needed and now - use.idle_since >= options.idle:
            return f"it has been idle for {now - use.idle_since:.0f} s"
    return ""


def _launches(
    options: Ec2Options, instances: Sequence[Instance], sponsors: Sequence[Want], spent: float, bumps: Mapping[str, int]
) -> tuple[list[str], str]:
    """Return the names of what may be launched, and why not more."""
    live = [it for it in instances if it.live]
    known: dict[str, int] = {}
    for it in instances:
        intent, _, number = it.launch.rpartition(":")
        if number.isdecimal():
            known[intent] = max(known.get(intent, 0), int(number) + 1)
    launch: list[str] = []
    for want in sponsors:
        if len(live) + len(launch) >= options.max_instances:
            return launch, f"all {options.max_instances} instances are taken (max_instances)"
        if held := over_budget(options, live, len(launch), spent):
            return launch, held
        launch.append(f"{want.intent}:{known.get(want.intent, 0) + bumps.get(want.intent, 0)}")
    return launch, ""


def over_budget(options: Ec2Options, live: Sequence[Instance], more: int, spent: float) -> str:
    """Return why one more instance would pass the ceiling, or nothing.

    A day's ceiling has to hold what was spent in the last 24 hours, and one more hour of all that would run.
    """
    budget = options.budget
    if budget is None:
        return ""
    dearest = max(options.price(type_, options.spot) for type_ in options.types)
    rate = sum(options.price(it.type, it.spot) for it in live) + (more + 1) * dearest
    if budget.per_hour is not None and rate > budget.per_hour + 1e-9:
        return f"the budget of ${budget.per_hour:g} an hour: with one more it would be ${rate:.4g}"
    if budget.per_day is not None and spent + rate > budget.per_day + 1e-9:
        return (
            f"the budget of ${budget.per_day:g} a day: ${spent:.4g} in the last 24 hours, ${rate:.4g} in the next hour"
        )
    return ""
