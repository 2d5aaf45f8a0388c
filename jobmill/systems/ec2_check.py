"""What `doctor` says of an `ec2` system: whether EC2 knows us and would launch, what is there, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems.ec2_cloud import Cloud
from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_options import Ec2Options
from jobmill.systems.ec2_request import request
from jobmill.systems.ec2_spend import Spend
from jobmill.systems.system import Check

NO_CREDENTIALS = "see `aws sts get-caller-identity`: environment, ~/.aws or an instance role have to hold credentials"


def check_fleet(name: str, options: Ec2Options, folder: Path, record: str) -> Sequence[Check]:
    """Look at the key file, ask EC2 for a dry run and for our instances; launches nothing."""
    try:
        keys = HostKeys(options.key)
    except ConfigError as error:
        return [Check(name="key", ok=False, detail=str(error), fix="systems: name a private key file by `key`")]
    checks = [Check(name="key", ok=True, detail=f"{options.key} serves to log in")]
    if not record:
        try:
            record = (folder / "record").read_text().strip()
        except OSError:
            record = ""
    try:
        cloud = Cloud(region=options.region, endpoint_url=options.endpoint_url, profile=options.profile, timeout=5.0)
        asked = request(options, keys, record=record or "check", system=name, launch="check:0", type_=options.types[0])
        refused = cloud.allowed({key: value for key, value in asked.items() if key != "ClientToken"})
        detail = refused or f"a dry run of {options.types[0]} from {options.image} in {cloud.region} is allowed"
        fix = "see that image, network, key name and rights are right" if refused else ""
        checks.append(Check(name="launch", ok=not refused, detail=detail, fix=fix))
        there = cloud.instances(record, name) if record else []
    except SystemUnavailable as error:
        return [*checks, Check(name="EC2", ok=False, detail=str(error), fix=NO_CREDENTIALS)]
    live = [it for it in there if it.live]
    checks.append(Check(name="instances", ok=True, detail=f"{len(live)} of {options.max_instances} run or boot"))
    if options.budget is not None:
        spent = Spend(folder / "spend").spent(time.time(), [it.id for it in there], options.price)
        rate = sum(options.price(it.type, it.spot) for it in live)
        detail = f"${spent:.4g} in the last 24 hours, ${rate:.4g} an hour now"
        checks.append(Check(name="spend", ok=True, detail=detail))
    else:
        fix = "set budget: {per_day: …, price: {…}}, so that a mistake has an end"
        checks.append(Check(name="spend", ok=True, detail="no ceiling is set", fix=fix))
    return checks
