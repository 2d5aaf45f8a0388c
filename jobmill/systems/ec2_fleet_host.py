"""An instance of a fleet as a host of SSH, and what a visit to it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_instance import Instance
from jobmill.systems.ec2_options import Ec2Options
from jobmill.systems.ec2_user_data import ready_command, renew_command


@dataclass(frozen=True, kw_only=True)
class FleetHost:
    """An instance as a host of SSH."""

    name: str  # the instance's id
    address: str
    port: int
    user: str
    key: Path  # private key file
    host_key: str  # `ssh-ed25519 <base64>`: the only one that is accepted
    slots: int
    renew: str  # shell command that renews the lease; succeeds once the instance is ready
    ready: str  # shell command that only tells whether it is ready

    @classmethod
    def of(cls, it: Instance, options: Ec2Options, keys: HostKeys) -> FleetHost | None:
        """Return an instance as a host; None where it has no address yet, or was not launched by us."""
        address = it.private if options.address == "private" else it.public
        if not address or not it.launch:
            return None
        return cls(
            name=it.id,
            address=address,
            port=options.port,
            user=options.user,
            key=options.key,
            host_key=keys.public(it.launch),
            slots=options.slots,
            renew=renew_command(options.lease_folder),
            ready=ready_command(options.lease_folder),
        )


class Visit(Protocol):
    """Goes to an instance over SSH, called by the fleet's threads."""

    def __call__(self, host: FleetHost, *, renew: bool) -> int | None:
        """Renew the lease if told so, and return how many slots are taken there, by what runs or was not fetched yet.

        None: it does not answer, or is not ready. Has a time limit of its own; never raises.
        """

    def keep(self, names: Collection[str]) -> None:
        """Let go of what is kept for all hosts but these."""
