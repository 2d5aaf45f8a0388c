"""The RunInstances request of a launch: everything in it follows from the configuration and the launch's name."""

from __future__ import annotations

import hashlib
from typing import Any

from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_instance import LAUNCH, LEASE, RECORD, SYSTEM
from jobmill.systems.ec2_options import Ec2Options
from jobmill.systems.ec2_user_data import MOST, user_data


def client_token(record: str, system: str, launch: str, type_: str) -> str:
    """Return the client token of a launch: 64 ASCII characters.

    The type is a part of it: another type is another request, made only when EC2 certainly refused the one before.
    """
    return hashlib.sha256("\0".join((record, system, launch, type_)).encode()).hexdigest()


def request(
    options: Ec2Options, keys: HostKeys, *, record: str, system: str, launch: str, type_: str
) -> dict[str, Any]:
    """Return the parameters of RunInstances; the same arguments give the same request, which EC2 asks for.

    All tags are in it, so that no instance is ever without. Who launched it is not: another process has to be able to
    repeat the request of one that died.
    """
    tags = {
        **options.tags,
        "Name": options.tags.get("Name", f"jobmill {system}"),
        RECORD: record,
        SYSTEM: system,
        LAUNCH: launch,
        LEASE: f"{options.lease:.0f}",
    }
    tagged = [{"Key": key, "Value": value} for key, value in tags.items()]
    script = user_data(
        keys, launch, user=options.user, lease=int(options.lease), script=options.user_data, folder=options.lease_folder
    )
    assert len(script.encode()) <= MOST  # the site's part is bounded by its option
    found: dict[str, Any] = {
        "ImageId": options.image,
        "InstanceType": type_,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": client_token(record, system, launch, type_),
        "UserData": script,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": [{"ResourceType": kind, "Tags": tagged} for kind in ("instance", "volume")],
    }
    if options.key_name is not None:
        found["KeyName"] = options.key_name
    if options.subnet is not None:
        found["SubnetId"] = options.subnet
    if options.security_groups:
        found["SecurityGroupIds"] = list(options.security_groups)
    if options.spot:
        spot: dict[str, Any] = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        if options.max_price is not None:
            spot["MaxPrice"] = f"{options.max_price:g}"
        found["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
    return found
