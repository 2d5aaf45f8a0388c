"""The options of an `ec2` system, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from jobmill.errors import ConfigError, nearest
from jobmill.systems.ec2_user_data import FOLDER

T = TypeVar("T")
OF_HOSTS = (  # options of an `ssh` system that hold here, too
    *("python", "folder", "kill_grace", "path", "shell", "env", "paths", "keep"),
    *("connect_timeout", "keepalive", "proxy_jump", "proxy_command", "ssh_config"),
)
RESERVED = ("jobmill:", "aws:")  # beginnings of tags that are not the site's


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The ceiling on spend. Prices are dollars an hour; what has no price in the file is never launched."""

    per_hour: float | None = None
    per_day: float | None = None  # any 24 hours
    price: Mapping[str, float] = field(default_factory=dict)  # by instance type


@dataclass(frozen=True, kw_only=True)
class Ec2Options:
    """What the file says of one fleet."""

    image: str  # ami-…
    types: Sequence[str]  # in the order in which they are tried
    key: Path  # private key with which we log in; its public half is given to each instance
    region: str | None = None  # None: by boto3's own chain
    endpoint_url: str | None = None
    profile: str | None = None  # of ~/.aws/config: where the secrets are
    key_name: str | None = None  # EC2's name of a key that may log in, too
    user: str = "ec2-user"
    port: int = 22
    address: str = "private"  # by which of its addresses an instance is reached
    subnet: str | None = None
    security_groups: Sequence[str] = ()
    slots: int = 1  # of one instance
    max_instances: int = 1
    spot: bool = False
    max_price: float | None = None  # dollars an hour that a spot instance may cost; None: up to the price on demand
    idle: float = 300.0  # seconds without a job after which an instance is ended
    lease: float = 900.0  # seconds without us after which it ends itself
    boot: float = 600.0  # seconds in which it has to be reached first
    budget: Budget | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    user_data: str | None = None  # a script of the site's, run as root before the first job
    lease_folder: str = FOLDER  # on the instance
    host: Mapping[str, Any] = field(default_factory=dict)  # what is said of each as a host of SSH

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> Ec2Options:
        """Check a mapping; raise ConfigError with the place, what is wrong and what to do."""
        where = f"systems.{name}"
        given = {key: value for key, value in options.items() if key not in OF_HOSTS}
        known = [*(key for key in cls.__dataclass_fields__ if key not in ("types", "host")), "instance_type", *OF_HOSTS]
        for key in given:
            if key not in known:
                raise ConfigError(
                    f"{where}: unknown option {key!r}{nearest(key, known)}; an ec2 system knows {', '.join(known)}"
                )
        for key, example in (("image", "ami-…"), ("instance_type", "t3.micro"), ("key", "~/.ssh/id_ed25519")):
            if given.get(key) is None:
                raise ConfigError(f"{where}: an ec2 system needs {key}, such as {key}: {example}")
        checks: Mapping[str, Callable[[Any], Any]] = {
            **dict.fromkeys(("image", "region", "endpoint_url", "profile", "key_name", "user", "subnet"), _word),
            "key": lambda value: Path(_word(value)).expanduser(),
            "instance_type": _words,
            "security_groups": _words,
            "port": _whole(1, 65535),
            "slots": _whole(1, 1024),
            "max_instances": _whole(0, 1000),
            "address": _address,
            "spot": _yes,
            "max_price": _money,
            "idle": _number(0, 86400 * 7),
            "lease": _number(60, 86400 * 7),
            "boot": _number(60, 86400),
            "budget": _budget,
            "tags": _tags,
            "user_data": _script,
            "lease_folder": _folder,
        }
        values: dict[str, Any] = {}
        for key, value in given.items():
            if value is None:
                continue
            try:
                values["types" if key == "instance_type" else key] = checks[key](value)
            except ValueError as bad:
                raise ConfigError(f"{where}.{key}: {bad}") from None
        values["host"] = {key: value for key, value in options.items() if key in OF_HOSTS}
        found = cls(**values)
        if found.max_price is not None and not found.spot:
            raise ConfigError(f"{where}.max_price: is for spot instances; add spot: true")
        if found.budget is not None and (unpriced := [t for t in found.types if t not in found.budget.price]):
            raise ConfigError(
                f"{where}.budget.price: has no price for {', '.join(unpriced)}; add the dollars of an hour"
            )
        return found

    def price(self, type_: str, spot: bool = True) -> float:
        """Return the dollars an hour that an instance is counted with; one without a price as the dearest that has one.

        ``spot``: of a spot instance, which EC2 takes back rather than that it costs more than ``max_price``.
        """
        if spot and self.max_price is not None:
            return self.max_price
        known = {} if self.budget is None else self.budget.price
        return known.get(type_, max(known.values(), default=0.0))


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value


def _words(value: Any) -> tuple[str, ...]:
    found = tuple(_word(it) for it in (value if isinstance(value, list) else [value]))
    if not found:
        raise ValueError("is empty; name at least one")
    return found


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{value!r} is not a whole number from {least} to {most}")
        return value

    return check


def _number(least: float, most: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{value!r} is not a number of seconds from {least} to {most}")
        return float(value)

    return check


def _money(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise ValueError(f"{value!r} is not an amount of dollars above 0")
    return float(value)


def _yes(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _address(value: Any) -> str:
    if value not in ("private", "public"):
        raise ValueError(f"{value!r} is neither private nor public")
    return str(value)


def _folder(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[A-Za-z0-9._/-]{1,200}", value):
        raise ValueError(f"{value!r} is no absolute path of letters, digits, '.', '_', '-'")
    return value


def _budget(value: Any) -> Budget:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping such as {per_hour: 2.0, per_day: 20, price: {t3.micro: 0.0104}}")
    for key in value:
        if key not in Budget.__dataclass_fields__:
            raise ValueError(f"unknown key {key!r}{nearest(key, Budget.__dataclass_fields__)}")
    price = value.get("price")
    if not isinstance(price, Mapping) or not price:
        raise ValueError("needs price, the dollars an hour of each instance type: price: {t3.micro: 0.0104}")
    per_hour, per_day = value.get("per_hour"), value.get("per_day")
    if per_hour is None and per_day is None:
        raise ValueError("needs per_hour, per_day or both, in dollars")
    return Budget(
        per_hour=None if per_hour is None else _money(per_hour),
        per_day=None if per_day is None else _money(per_day),
        price={_word(type_): _money(dollars) for type_, dollars in price.items()},
    )


def _tags(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or len(value) > 40:
        raise ValueError("must be a mapping of at most 40 names to texts")
    for key in value:
        if not isinstance(key, str) or not 0 < len(key) <= 128 or key.lower().startswith(RESERVED):
            raise ValueError(f"{key!r} cannot be a tag: 1 to 128 letters, and none of {', '.join(RESERVED)} first")
    found = {key: "" if text is None else str(text) for key, text in value.items()}
    if long := [key for key, text in found.items() if len(text) > 256]:
        raise ValueError(f"the text of {long[0]!r} has more than 256 letters")
    return found


def _script(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("#!"):
        raise ValueError("must be a script whose first line is such as #!/bin/sh")
    if len(value.encode()) > 8000:
        raise ValueError("is longer than 8000 bytes; let it fetch the rest")
    return value
