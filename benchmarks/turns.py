"""What all comparisons share: the words of the command line, peers that cannot be had, and turns that are fair."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.contender import Contender

Measured = TypeVar("Measured")


def parser(words: str | None, peers: Sequence[str], *, jobs: int, rounds: int) -> argparse.ArgumentParser:
    """Return the parser of a comparison with its defaults; ``words``: the program's docstring."""
    made = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--jobs", type=int, default=jobs, metavar="N")
    made.add_argument("--rounds", type=int, default=rounds, metavar="R")
    made.add_argument("--peers", default=",".join(peers), help=f"of {', '.join(peers)}; empty for none")
    made.add_argument("--spool", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to measure")
    made.add_argument("--json", action="store_true", help="print nothing but the last line")
    return made


def chosen(
    peers: Mapping[str, Callable[[], Contender[Measured]]], given: argparse.Namespace, parser: argparse.ArgumentParser
) -> list[Contender[Measured]]:
    """Return the peers that were asked for; end the program when one is unknown or a number cannot be."""
    names = [name for name in given.peers.split(",") if name]
    unknown = [name for name in names if name not in peers]
    if unknown:
        parser.error(f"unknown peer {unknown[0]!r}; known: {', '.join(peers)}")
    if given.jobs < 1 or given.rounds < 1:
        parser.error("N and R must be 1 or more")
    return [peers[name]() for name in names]


def prepared(contenders: Sequence[Contender[Measured]]) -> list[Contender[Measured]]:
    """Prepare each; leave out, with one line, a peer that cannot be had (no network, no wheel for this machine)."""
    ready = []
    for contender in contenders:
        try:
            contender.prepare()
        except (OSError, subprocess.SubprocessError) as error:
            if contender.name == "jobmill":
                raise
            print(f"{contender.name} is left out, it could not be installed: {error}", file=sys.stderr)
        else:
            ready.append(contender)
    return ready


def in_turn(contenders: Sequence[Contender[Measured]], rounds: int) -> Iterator[tuple[int, Contender[Measured]]]:
    """Give number of the round, from 1, and contender: each once a round, another one first in each."""
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in [*contenders[turn:], *contenders[:turn]]:
            yield number + 1, contender
