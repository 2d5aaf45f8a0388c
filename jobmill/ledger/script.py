"""The Lua scripts: loaded once, called by digest, sent whole when the server does not know them."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from jobmill.jobs import states

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from redis import Redis


def _table(name: str, members: frozenset[states.State]) -> str:
    return f"local {name} = {{ {', '.join(f'{m} = true' for m in sorted(members))} }}\n"


def _state_tables() -> str:
    can = ", ".join(
        f"{state} = {{ {', '.join(f'{to} = true' for to in sorted(allowed))} }}"
        for state, allowed in states.ALLOWED.items()
    )
    return (
        f"local CAN = {{ {can} }}\n"
        + _table("ENDED", states.ENDED)
        + _table("POLLED", states.POLLED)
        + _table("LAUNCHED", states.LAUNCHED)
    )


def _folder() -> Traversable:
    from importlib.resources import files  # only now: who looks runs no script

    return files("jobmill.ledger") / "lua"


@functools.cache
def source(name: str) -> tuple[str, str]:
    """Return the whole text of a script and its SHA-1: the state tables, the prelude, the script."""
    folder = _folder()
    text = _state_tables() + (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def names() -> list[str]:
    """Return the names of all scripts."""
    return sorted(f.name[:-4] for f in _folder().iterdir() if f.name.endswith(".lua") and f.name != "prelude.lua")


def evaluate(client: Redis, name: str, key: str, args: list[Any]) -> Any:
    """Run a script by EVALSHA; by EVAL where the server does not know it (a NOSCRIPT ran nothing)."""
    from redis.exceptions import NoScriptError

    text, digest = source(name)
    try:
        return client.evalsha(digest, 1, key, *args)
    except NoScriptError:
        return client.eval(text, 1, key, *args)
