"""jobmill redis"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from jobmill.scripts.options import record_in_use


@click.command("redis", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-x", "from_stdin", is_flag=True, help="The last argument comes from standard input.")
@click.argument("words", metavar="COMMAND [ARGUMENT]...", nargs=-1, type=click.UNPROCESSED, required=True)
def redis_command(words: Sequence[str], from_stdin: bool) -> int:
    """Pass a command to the Redis server in use and print its reply as redis-cli does.

    Commands that never end (MONITOR, SUBSCRIBE) need redis-cli itself: `jobmill up` prints how to reach the server.
    """
    from jobmill.ledger.raw_reply import ask
    from jobmill.screen import terminal
    from jobmill.screen.reply import reply_lines

    if words[0].upper() in ("MONITOR", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "SYNC", "PSYNC"):
        raise click.UsageError(f"{words[0]} never ends: use redis-cli itself")
    record, _ = record_in_use()
    more = [sys.stdin.buffer.read()] if from_stdin else []
    for line in reply_lines(ask(record, [*words, *more]), formatted=terminal.is_terminal()):
        terminal.say(line)
    return 0
