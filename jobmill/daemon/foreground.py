"""The pipeline in the foreground: supervisor, server and workers under one process that says where they are."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from jobmill.config import Config
from jobmill.daemon.server import EmbeddedServer
from jobmill.daemon.supervisor import Supervisor, running
from jobmill.daemon.worker import workers
from jobmill.errors import ConfigError, PermanentError, ServerUnavailable


def serve(config: Config, *, file: Path | None, quiet: bool = False, parent: int | None = None) -> int:
    """Run until told to stop; return the exit code.

    ``parent``: a descriptor whose end stops the pipeline, warm. Raises PermanentError when one runs here already, and
    what the server's first start raises.
    """
    pid = running(config.state)
    if pid is not None:
        raise PermanentError(
            f"jobmill runs already in {config.state} (process {pid}): jobmill info shows it, kill {pid} ends it; "
            "another one needs a state folder of its own ($JOBMILL_STATE)"
        )
    url = config.redis.url
    server = EmbeddedServer(config.state) if url is None else None
    if url is not None:
        from jobmill.ledger.record import Record

        record = Record(url)
        try:
            record.ping()  # before the workers all say it, each in its own words
        except ServerUnavailable as error:
            raise ServerUnavailable(
                f"{error}; start that server, or leave redis.url out for the embedded one"
            ) from None
        finally:
            record.close()
    supervisor = Supervisor(
        workers(*(("--config", str(file.absolute())) if file else ())),
        folder=config.state,
        server=server,
        env={"JOBMILL_STATE": str(config.state.absolute())} | ({"JOBMILL_REDIS_URL": url} if url else {}),
        echo=None if quiet else sys.stdout,
        as_json=config.log.json,
    )
    if parent is not None:
        os.set_inheritable(parent, False)
        threading.Thread(target=_until_end, args=(parent, supervisor), daemon=True).start()
    if not quiet:
        _greet(config, server)
    _entitle()
    code = supervisor.run()
    if supervisor.failure:
        failure = ConfigError if code == ConfigError.exit_code else PermanentError
        raise failure(supervisor.failure)
    return code


def _until_end(descriptor: int, supervisor: Supervisor) -> None:
    while os.read(descriptor, 4096):
        pass
    supervisor.stop()


def _greet(config: Config, server: EmbeddedServer | None) -> None:
    reach = f"redis-cli -s {server.socket}" if server is not None else "jobmill redis"
    print(
        "jobmill is coming up; Ctrl-C stops it, jobs run on\n"
        f"  server  {server.url if server is not None else config.redis.shown}\n"
        f"  state   {config.state}\n"
        f"  log     {config.state / 'jobmill.log'}\n"
        f"  watch   jobmill watch; {reach} LLEN Job_Queue",
        flush=True,
    )


def _entitle() -> None:
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle("jobmill up")
