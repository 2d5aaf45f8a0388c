"""Where a batch system's commands are run and its files lie: on this machine, or on a login node behind SSH."""

from __future__ import annotations

from pathlib import Path

from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_spool import BatchSpool
from jobmill.systems.command_line import CommandLine


def way(name: str, kind: str, spool: Path, options: BatchOptions) -> tuple[BatchSpool, CommandLine]:
    """Return the run folders and the commands of one system; raise ConfigError. Connects to nothing."""
    if options.login is None:
        return BatchSpool(spool, name, options), CommandLine(options.env, path=options.path)
    from jobmill.systems import ssh_config  # with paramiko, which no other batch system needs
    from jobmill.systems.far_batch_spool import FarBatchSpool
    from jobmill.systems.far_command_line import FarCommandLine
    from jobmill.systems.far_login import FarLogin

    host = str(options.login["host"]).rpartition("@")[2]
    label = host if ssh_config.NAME.fullmatch(host) else "host"
    login = FarLogin(ssh_config.host(name, label, options.login, f"systems.{name}", Path(spool)))
    return FarBatchSpool(login, name, options), FarCommandLine(login, options.env, path=options.path)
