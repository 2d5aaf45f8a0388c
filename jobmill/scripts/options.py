"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobmill.errors import JobmillError, UnknownName

if TYPE_CHECKING:
    from jobmill.client import Client
    from jobmill.config import Config
    from jobmill.jobs.states import State
    from jobmill.ledger.record import Record
    from jobmill.ledger.selection import Selection

Command = TypeVar("Command", bound=Callable[..., Any])


def connect() -> tuple[Client, Config]:
    """Return a client of the server in use, and the configuration that says which."""
    from jobmill.client import Client

    record, config = record_in_use()
    return Client(record=record), config


def record_in_use() -> tuple[Record, Config]:
    """Return the record of the server in use, and the configuration that says which: all that a look needs."""
    from jobmill.config import load
    from jobmill.daemon.address import address
    from jobmill.ledger.record import Record

    config = load()
    return Record(config.redis.url or address(config.state), prefix=config.redis.prefix), config


def json_option(words: str) -> Callable[[Command], Command]:
    """Add --json; ``words`` say whether it is one document or lines."""
    return click.option("--json", "as_json", is_flag=True, help=words)


def _ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete job ids from the record; say nothing when there is none."""
    from jobmill.jobs.states import State
    from jobmill.ledger import listing

    try:
        client, _ = connect()
        return [
            i for i in ["last", "all", *listing.find(client.record, frozenset(State), 500)] if i.startswith(incomplete)
        ]
    except JobmillError:
        return []


def selectors() -> Callable[[Command], Command]:
    """Add ID… and --tag, --state, --user."""

    def add(command: Command) -> Command:
        command = click.option("--user", metavar="NAME", help="Only this user's jobs.")(command)
        command = click.option(
            "--state", "states", metavar="STATE,…", multiple=True, help="Only jobs in these states (also: live, ended)."
        )(command)
        command = click.option("--tag", metavar="TAG", help="Only jobs with this tag.")(command)
        return click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=_ids)(command)

    return add


def selection(ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None) -> Selection:
    """Return what these words ask for."""
    from jobmill.ledger.selection import Selection, parse_states

    return Selection(words=ids, tag=tag, states=parse_states(states), user=user)


def chosen(client: Client, wanted: Selection, within: frozenset[State] | None = None) -> list[str]:
    """Return the ids that are meant; raise UnknownName when there are none."""
    from jobmill.jobs.states import State
    from jobmill.ledger.selection import select

    found = select(client.record, wanted, within=frozenset(State) if within is None else within)
    if not found:
        raise UnknownName("no job fits (jobmill list --state all)")
    return found


def duration_option(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a duration as job files write it."""
    from jobmill.jobs.quantity import parse_duration

    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
