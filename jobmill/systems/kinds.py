"""What is known of the kinds of system that are installed, without a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from jobmill.errors import JobmillError
from jobmill.systems.registry import kind_origin, known_kinds, system_class


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind: a word that may stand after `kind:`."""

    name: str
    package: str  # the installed package that declares it, or the file of the site that registers it
    target: str  # "module:Class"
    words: str = ""  # the first sentence of the class's docstring
    problem: str = ""  # why it cannot be used here, empty where it can
    fix: str = ""  # what to do about that: the pip line of what is missing


def installed_kinds() -> list[Kind]:
    """Return every kind, sorted by name, each imported to see whether it can be."""
    found = []
    for name in known_kinds():
        package, target = kind_origin(name)
        try:
            kind = system_class(name)
        except JobmillError as error:
            problem, _, fix = str(error).partition("; ")
            found.append(Kind(name=name, package=package, target=target, problem=problem, fix=fix.removeprefix("do: ")))
            continue
        words = (kind.__doc__ or "").strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        found.append(Kind(name=name, package=package, target=target, words=words))
    return found
