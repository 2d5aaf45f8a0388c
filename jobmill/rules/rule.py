"""A rule: a function of a job and keyword parameters that answers None for yes, or the reason for no.

    def weekend_only(job: JobSpec, *, days: Sequence[str]) -> str | None: …

It is found by entry point (group `jobmill.rules`), or by `@register` in a file of the site's `plugins/rules` folder. It
must be quick, and a pure function of the job: the same answer explains a job later.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jobmill.errors import ConfigError, UnknownName, nearest
from jobmill.systems.plugins import Plugins, load_files

if TYPE_CHECKING:
    from jobmill.jobs.spec import JobSpec

RuleFunction = Callable[..., str | None]
Function = TypeVar("Function", bound=RuleFunction)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule function with its parameters, as one entry of a route's ``rules:`` says it."""

    name: str  # the entry point's name
    params: Mapping[str, Any]  # keyword arguments, checked against the function's signature
    function: RuleFunction

    def refusal(self, job: JobSpec) -> str | None:
        """Return None when the rule says yes, else its reason. A rule that breaks says no: better held than misled."""
        try:
            answer = self.function(job, **self.params)
        except Exception as error:  # a stranger's code
            return f"{self.name}: the rule itself failed: {type(error).__name__}: {error}"
        if answer is None or isinstance(answer, str):
            return None if answer is None else f"{self.name}: {answer or 'no reason given'}"
        return f"{self.name}: the rule answered {answer!r}; it must answer None for yes or a reason for no"

    @classmethod
    def parse(cls, entry: Any, where: str) -> Rule:
        """Read ``name``, ``{name: value}`` (the function's first parameter) or ``{name: {param: value}}``.

        Raises ConfigError, which begins with ``where``, for an unknown rule or parameters that do not fit.
        """
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ConfigError(f"{where}: a rule is written `name` or `name: parameters`, one to a list entry")
        name, given = next(iter(entry.items()))
        try:
            function = rule_function(str(name))
        except UnknownName as error:
            raise ConfigError(f"{where}: {error}") from None
        parameters = _parameters(function)
        if not isinstance(given, Mapping):
            if not parameters:
                raise ConfigError(f"{where}: rule '{name}' takes no parameters; write just `{name}`")
            given = {next(iter(parameters)): given}
        unknown = [param for param in given if param not in parameters]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            hint = nearest(unknown[0], parameters)
            takes = ", ".join(parameters) or "none"
            raise ConfigError(f"{where}: rule '{name}' has no parameter '{unknown[0]}'{hint}; it takes: {takes}")
        for param, about in parameters.items():
            if about.default is about.empty and about.kind is not about.VAR_KEYWORD and param not in given:
                raise ConfigError(f"{where}: rule '{name}' needs the parameter '{param}'")
        params = _validated(function, parameters, given, f"{where}: rule '{name}'")
        return cls(name=str(name), params=params, function=function)


def _parameters(function: RuleFunction) -> dict[str, inspect.Parameter]:
    """Return what a rule takes beside the job, by name."""
    return dict(list(inspect.signature(function).parameters.items())[1:])


def _validated(
    function: RuleFunction, parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the values as the function's annotations want them, so that a bad limit is met here, not at a job."""
    import pydantic  # only now: starters and fetchers load the site's rules and use none

    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # names that are imported for type checkers only
        hints = {}
    fields: dict[str, Any] = {param: (hints.get(param, Any), ...) for param in given if param in parameters}
    model = pydantic.create_model("Params", __config__=pydantic.ConfigDict(arbitrary_types_allowed=True), **fields)
    try:
        checked = model(**{param: given[param] for param in fields})
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        words = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {first['loc'][0]}: {words} (it is {first['input']!r})") from None
    return {**given, **{param: getattr(checked, param) for param in fields}}


def _checked(name: str, found: Any) -> RuleFunction:
    if not callable(found):
        raise ConfigError(f"rule '{name}': {found!r} is not a function")
    if not inspect.signature(found).parameters:
        raise ConfigError(f"rule '{name}': its function must take the job as its first parameter")
    function: RuleFunction = found
    return function


_rules: Plugins[RuleFunction] = Plugins("jobmill.rules", "rule", _checked)


def register(function: Function) -> Function:
    """Decorator: make a rule known in this process under its function's name; raise ConfigError when that is taken."""
    name = str(getattr(function, "__name__", function))
    _rules.add(name, _checked(name, function))
    return function


def rule_function(name: str) -> RuleFunction:
    """Return the function of a rule; raise UnknownName with the known ones and the nearest."""
    return _rules.get(name)


def known_rules() -> tuple[str, ...]:
    """Return the names of all rules, sorted; loads none of them."""
    return _rules.known()


def load_site_rules(folder: Path) -> tuple[Path, ...]:
    """Import the files of the site's ``plugins/rules`` folder, so that they register; return them."""
    return load_files(folder)
