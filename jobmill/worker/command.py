"""The command line that the three workers share."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobmill import __version__
from jobmill.config import Config, load
from jobmill.daemon.address import address
from jobmill.errors import JobmillError
from jobmill.jobs.document import require_libyaml
from jobmill.ledger.record import Record
from jobmill.rules.site import load_site_plugins
from jobmill.worker import log
from jobmill.worker.loop import ANEW, Loop
from jobmill.worker.work import Work

logger = logging.getLogger("jobmill")

COLLECT = 50_000  # objects: a batch is thousands of them, and none refers to itself

Make = Callable[[Record, Config, str], Work]


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
        load_site_plugins(config.source)
        if given.parent_fd is not None:
            os.set_inheritable(given.parent_fd, False)
        for folder in (config.state, config.spool):  # what jobs write, and what they are asked, is their owner's alone
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = Record(given.redis or config.redis.url or address(config.state), prefix=config.redis.prefix)
        work = make(record, config, given.lane)

        def changed() -> bool:
            """Tell whether there is another configuration now, and a right one: a wrong one changes nothing."""
            try:
                new = load(given.config)
                if new != config:
                    make(record, new, given.lane)
                return new != config
            except (JobmillError, OSError) as error:
                logger.error("the changed configuration is wrong, the old one stays in force: %s", error)
                return False

        _entitle(role, given.lane)
        gc.freeze()  # what was imported lives as long as the process
        gc.set_threshold(COLLECT)
        code = Loop(record, work, parent=given.parent_fd, changed=changed).run()
        if code == ANEW:
            if given.parent_fd is not None:
                os.set_inheritable(given.parent_fd, True)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # kept by exec: another must not end what begins
            os.execv(sys.executable, [sys.executable, "-P", "-m", f"jobmill.scripts.{role}", *(argv or sys.argv[1:])])
        return code
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
