"""A configuration file, checked whole: every problem at once, each with its line and what to do."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jobmill.config import (
    BEYOND_SLOTS,
    MAX_FILE,
    Config,
    Limits,
    LogConfig,
    RedisConfig,
    RouteConfig,
    SystemConfig,
    home_of,
    url_problem,
)
from jobmill.errors import ConfigError, nearest

T = TypeVar("T")
KeyPath = tuple[str | int, ...]

_LATER = ("users", "notify", "notifications", "plugins", "web")  # keys of versions to come
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(:\S{1,128})?", re.ASCII)  # LocalJobs, User:ann
_LEVELS = ("debug", "info", "warning", "error")


class _Reader:
    """Takes values out of the file's mapping and gathers what is wrong with them."""

    def __init__(self, line: Callable[[KeyPath], int | None], where: str) -> None:
        self.problems: list[tuple[int, str]] = []
        self._line, self._where = line, where

    def wrong(self, path: KeyPath, words: str, *, where: str | None = None) -> None:
        """Note a problem; ``where`` replaces the file's name for what stands elsewhere (the environment)."""
        number = None if where else self._line(path)
        key = "".join(f"[{word}]" if isinstance(word, int) else f".{word}" for word in path).lstrip(".")
        place = where or ":".join(str(part) for part in (self._where, number) if part)
        self.problems.append((number or 0, ": ".join(part for part in (place, key, words) if part)))

    def mapping(self, value: Any, path: KeyPath) -> Mapping[str, Any]:
        """Return a mapping, empty for what is missing or is none."""
        if value is None or isinstance(value, Mapping):
            return value or {}
        # a URL where its mapping belongs must not show its password
        self.wrong(path, "must be a mapping of key: value" + ("" if path == ("redis",) else f", not {_shown(value)}"))
        return {}

    def known(self, values: Mapping[str, Any], path: KeyPath, keys: tuple[str, ...]) -> None:
        """Note every key that is none of ``keys``."""
        for key in values:
            if key not in keys:
                if not path and key in _LATER:
                    self.wrong((key,), "is not supported in this version of jobmill; take it out")
                else:
                    hint = nearest(key, keys) or f"; known here: {', '.join(keys)}"
                    self.wrong((*path, key), f"unknown key{hint}")

    def take(self, values: Mapping[str, Any], key: str, path: KeyPath, check: Callable[[Any], T], default: T) -> T:
        """Return the checked value of ``key``, or ``default`` when it is missing or wrong."""
        value = values.get(key)
        if value is None:
            return default
        try:
            return check(value)
        except ValueError as bad:
            self.wrong((*path, key), str(bad))
            return default


def build(source: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration of a file (None: of none); raise ConfigError that lists every problem."""
    values, line = _read(source)
    reader = _Reader(line, str(source or "configuration"))
    reader.known(values, (), ("redis", "state", "spool", "systems", "routes", "capacities", "limits", "log"))
    folder = source.absolute().parent if source else Path.cwd()

    def path_of(value: Any) -> Path:
        text = _text(value)
        home = str(home_of(environ))
        return folder / (home + text[1:] if text == "~" or text.startswith("~/") else text)

    state = reader.take(values, "state", (), path_of, _default_state(environ))
    systems = _systems(reader, values)
    limits_given = reader.mapping(values.get("limits"), ("limits",))
    config = Config(
        redis=_redis(reader, values, environ),
        state=state,
        spool=reader.take(values, "spool", (), path_of, state / "spool"),
        systems=systems,
        routes=_routes(reader, values, systems),
        capacities=_capacities(reader, values),
        limits=_limits(reader, limits_given),
        log=_log(reader, values),
        source=source,
        digest=_digest(values),
    )
    if reader.problems:
        raise ConfigError("\n".join(words for _, words in sorted(reader.problems, key=lambda pair: pair[0])))
    return config


def _read(source: Path | None) -> tuple[Mapping[str, Any], Callable[[KeyPath], int | None]]:
    if source is None:
        return {}, lambda path: None
    from jobmill.jobs.document import load

    try:
        with source.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as bad:
        raise ConfigError(f"{source}: cannot be read: {bad.strerror}; make it readable or name another") from None
    documents = load(data, limit=MAX_FILE, where=str(source), empty=True, error=ConfigError)
    if len(documents) > 1:
        raise ConfigError(f"{source}:{documents[1].first_line}: a second document; keep everything in one")
    return (documents[0].data, documents[0].line) if documents else ({}, lambda path: None)


def _default_state(environ: Mapping[str, str]) -> Path:
    if environ.get("JOBMILL_STATE"):
        return Path(environ["JOBMILL_STATE"]).absolute()
    if environ.get("XDG_STATE_HOME"):
        return Path(environ["XDG_STATE_HOME"]).absolute() / "jobmill"
    return home_of(environ) / ".local" / "state" / "jobmill"


def _redis(reader: _Reader, values: Mapping[str, Any], environ: Mapping[str, str]) -> RedisConfig:
    given = reader.mapping(values.get("redis"), ("redis",))
    reader.known(given, ("redis",), ("url", "prefix"))

    def url_of(value: Any) -> str:
        # not through _text: a message must not show the value
        if not isinstance(value, str) or not value.strip():
            raise ValueError("must be text such as redis://host:6379/0; leave it out for the embedded server")
        if problem := url_problem(value):
            raise ValueError(problem)
        return value

    def prefix_of(value: Any) -> str:
        if not isinstance(value, str) or len(value) > 64 or re.search(r"\s|[^\x21-\x7e]", value):
            raise ValueError('must be at most 64 printable ASCII characters without blanks, such as "{jm}:"')
        return value

    url = reader.take(given, "url", ("redis",), url_of, None)
    if override := environ.get("JOBMILL_REDIS_URL"):
        url = override
        if problem := url_problem(override):
            reader.wrong((), problem, where="$JOBMILL_REDIS_URL")
    return RedisConfig(url=url, prefix=reader.take(given, "prefix", ("redis",), prefix_of, ""))


def _systems(reader: _Reader, values: Mapping[str, Any]) -> dict[str, SystemConfig]:
    given = reader.mapping(values.get("systems"), ("systems",)) or {"local": {"kind": "local"}}
    systems = {}
    for name, raw in given.items():
        path: KeyPath = ("systems", name)
        if not _NAME.fullmatch(name):
            reader.wrong(
                path, "is no name: use letters, digits, '.', '_', '-' (at most 64, the first a letter or digit)"
            )
        options = dict(reader.mapping(raw, path))
        kind = reader.take(options, "kind", path, _text, "")
        if "kind" not in options:
            if name == "local":
                kind = "local"
            elif raw is None or isinstance(raw, Mapping):
                reader.wrong(path, "has no kind; add kind: local (jobmill systems lists the kinds)")
        slots = reader.take(options, "slots", path, _whole(0, 1_000_000), None)
        if slots is None and kind == "local":
            slots = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        limit = reader.take(
            options,
            "limit",
            path,
            _whole(0, 10_000_000),
            100 if slots is None else slots + BEYOND_SLOTS if slots else 0,
        )
        lane = reader.take(options, "lane", path, _lane, "")
        for key in ("kind", "slots", "limit", "lane"):
            options.pop(key, None)
        systems[name] = SystemConfig(name=name, kind=kind, slots=slots, limit=limit, lane=lane, options=options)
    return systems


def _routes(reader: _Reader, values: Mapping[str, Any], systems: Mapping[str, SystemConfig]) -> tuple[RouteConfig, ...]:
    given = values.get("routes")
    if given is None:
        return ()
    if not isinstance(given, list):
        reader.wrong(("routes",), "must be a list of {name, rules, system}; the first route that allows a job wins")
        return ()
    from jobmill.systems.run_as import OPTIONS

    routes: list[RouteConfig] = []
    for number, raw in enumerate(given):
        path: KeyPath = ("routes", number)
        route = reader.mapping(raw, path)
        if not route:
            if isinstance(raw, Mapping) or raw is None:
                reader.wrong(path, "is empty; give name, rules and system")
            continue
        reader.known(route, path, ("name", "rules", "system", *OPTIONS))
        name = reader.take(route, "name", path, _text, f"route-{number + 1}")
        if name in [known.name for known in routes]:
            reader.wrong((*path, "name"), f"{name!r} is the name of an earlier route; use another")
        wanted = route.get("system")
        targets = wanted if isinstance(wanted, list) else [] if wanted is None else [wanted]
        if not targets:
            reader.wrong(path, f"names no system; add system: with one of {', '.join(systems)}")
        for target in targets:
            if target not in systems:
                hint = nearest(str(target), systems) or f"; configured: {', '.join(systems)}"
                reader.wrong((*path, "system"), f"there is no system {_shown(target)}{hint}")
        none: tuple[str | Mapping[str, Any], ...] = ()
        rules = reader.take(route, "rules", path, _rules, none)
        acting = {key: route[key] for key in OPTIONS if route.get(key) is not None}
        routes.append(RouteConfig(name=name, rules=rules, systems=tuple(map(str, targets)), run_as=acting))
    return tuple(routes)


def _rules(value: Any) -> tuple[str | Mapping[str, Any], ...]:
    items = value if isinstance(value, list) else [value]
    for number, item in enumerate(items, 1):
        if not (isinstance(item, str) and item) and not (isinstance(item, Mapping) and len(item) == 1):
            raise ValueError(f"item {number} must be a rule's name, or one name with its parameters: {{name: …}}")
    return tuple(items)


def _capacities(reader: _Reader, values: Mapping[str, Any]) -> dict[str, int]:
    given = reader.mapping(values.get("capacities"), ("capacities",))
    for name in given:
        if not _SET.fullmatch(name):
            reader.wrong(("capacities", name), "is no name of a set; write LocalJobs, User:ann, Queue:long …")
    return {name: reader.take(given, name, ("capacities",), _whole(0, 10_000_000), 0) for name in given}


def _limits(reader: _Reader, given: Mapping[str, Any]) -> Limits:
    if not given:
        return Limits()
    from jobmill.jobs.quantity import format_duration, parse_bytes, parse_duration

    def seconds(least: float, most: float) -> Callable[[Any], float]:
        def check(value: Any) -> float:
            duration = parse_duration(value)
            if not least <= duration <= most:
                raise ValueError(f"must lie between {format_duration(least)} and {format_duration(most)}")
            return duration

        return check

    def size(value: Any) -> int:
        count = parse_bytes(value)
        if not 1 << 10 <= count <= 64 << 20:
            raise ValueError("must lie between 1K and 64M (a bare number is MiB)")
        return count

    normal = Limits()
    reader.known(given, ("limits",), tuple(Limits.__dataclass_fields__))
    path: KeyPath = ("limits",)
    return Limits(
        document=reader.take(given, "document", path, size, normal.document),
        max_waiting=reader.take(given, "max_waiting", path, _whole(1, 100_000_000), normal.max_waiting),
        lease=reader.take(given, "lease", path, seconds(5, 3600), normal.lease),
        keep_ended=reader.take(given, "keep_ended", path, seconds(60, 10 * 365 * 86400), normal.keep_ended),
    )


def _log(reader: _Reader, values: Mapping[str, Any]) -> LogConfig:
    given = reader.mapping(values.get("log"), ("log",))
    reader.known(given, ("log",), ("level", "json"))

    def level(value: Any) -> str:
        word = str(value).lower()
        if word not in _LEVELS:
            raise ValueError(f"{_shown(value)} is none of {', '.join(_LEVELS)}{nearest(word, _LEVELS)}")
        return word

    def flag(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {_shown(value)}")
        return value

    return LogConfig(
        level=reader.take(given, "level", ("log",), level, "info"),
        json=reader.take(given, "json", ("log",), flag, False),
    )


def _digest(values: Mapping[str, Any]) -> str:
    """Hash what was given, not what follows from the machine: two hosts with one file agree."""
    redis = values.get("redis")
    matter = {key: values.get(key) for key in ("systems", "routes", "capacities", "limits")}
    matter["prefix"] = redis.get("prefix") if isinstance(redis, Mapping) else None
    text = json.dumps(matter, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def written(config: Config) -> str:
    """Return ``config`` as the text of a file."""
    import yaml

    from jobmill.jobs.quantity import format_duration

    limits = config.limits
    values: dict[str, Any] = {
        "redis": {**({"url": config.redis.shown} if config.redis.url else {}), "prefix": config.redis.prefix},
        "state": str(config.state),
        "spool": str(config.spool),
        "systems": {
            name: {
                "kind": system.kind,
                **({} if system.slots is None else {"slots": system.slots}),
                "limit": system.limit,
                "lane": system.lane,
                **system.options,
            }
            for name, system in config.systems.items()
        },
        "routes": [route.entry for route in config.routes],
        "capacities": dict(config.capacities),
        "limits": {
            "document": f"{limits.document}B",
            "max_waiting": limits.max_waiting,
            "lease": format_duration(limits.lease),
            "keep_ended": format_duration(limits.keep_ended),
        },
        "log": {"level": config.log.level, "json": config.log.json},
    }
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"must be printable text, not {_shown(value)}")
    return value


def _lane(value: Any) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{_shown(value)} is no lane: use letters, digits, '.', '_', '-'")
    return value


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int:
            raise ValueError(f"must be a whole number, not {_shown(value)}")
        if not least <= value <= most:
            raise ValueError(f"must lie between {least} and {most}, not {value}")
        return value

    return check


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
