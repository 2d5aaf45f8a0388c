"""The command line that the three workers share."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobmill import __version__
from jobmill.config import Config, load
from jobmill.daemon.address import address
from jobmill.errors import JobmillError
from jobmill.jobs.document import require_libyaml
from jobmill.ledger.record import Record
from jobmill.rules.rule import load_site_rules
from jobmill.systems.registry import load_site_systems
from jobmill.worker import log
from jobmill.worker.loop import Loop
from jobmill.worker.work import Work

Make = Callable[[Record, Config, str, Callable[[], Config]], Work]


def serve(role: str, what: str, make: Make, argv: Sequence[str] | None = None) -> int:
    """Run one worker until it is told to stop; return its exit code."""
    parser = argparse.ArgumentParser(
        prog=f"jobmill-{role}",
        description=f"{what} One TERM stops warm (hand back what was taken), a second one at once; HUP reloads. "
        "Jobs run on in any case. Any number may run, on any number of machines.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="jobmill.yaml (default: searched, see the README)")
    parser.add_argument("--redis", metavar="URL", help="redis://, rediss://, unix:// or sentinel:// (default: config)")
    parser.add_argument("--lane", default="", help="serve the systems of this lane (default: the plain one)")
    parser.add_argument("--parent-fd", type=int, metavar="N", help="stop when this descriptor ends (for supervisors)")
    parser.add_argument("--version", action="version", version=f"jobmill {__version__}")
    given = parser.parse_args(argv)
    try:
        config = load(given.config)
        log.configure(role, level=config.log.level, as_json=config.log.json)
        require_libyaml()
        plugins = (config.source.parent if config.source else Path()) / "plugins"
        load_site_systems(plugins / "systems")
        load_site_rules(plugins / "rules")
        if given.parent_fd is not None:
            os.set_inheritable(given.parent_fd, False)
        url = given.redis or config.redis.url or address(config.state)
        record = Record(url, prefix=config.redis.prefix)
        work = make(record, config, given.lane, lambda: load(given.config))
        _entitle(role, given.lane)
        return Loop(record, work, parent=given.parent_fd).run()
    except JobmillError as error:
        print(f"jobmill-{role}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"jobmill-{role}: {error}", file=sys.stderr)
        return 100


def _entitle(role: str, lane: str) -> None:
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(f"jobmill-{role}" + (f" --lane {lane}" if lane else ""))
