"""Calls one Python function as a step of a job: the other half of stepper.py, as plain as it (Python 3.6 or later).

Started by the stepper as ``python function_step.py CALL_FILE`` in the job's workdir, which is first on ``sys.path``,
so that a module beside the job file is found. Every way to fail leaves one line in $JOBMILL_ERROR_FILE; an exception
of the function leaves its traceback in the step's log as well and exits 1; what the step promised and did not keep
(a parameter without a value, an output that is not JSON) exits 2.
"""

# ruff: noqa: PTH109, PTH123, UP035
# (it runs on hosts that have nothing but Python 3.6)

import importlib
import inspect
import json
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


class BadCall(Exception):
    """The function cannot be called, or its answer not kept; the message says why and what to do."""


def find(reference: str) -> "Callable[..., Any]":
    """Import ``pkg.mod:call`` and return it; raise BadCall when there is no such thing."""
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only when the named module itself is missing: a failing import inside of it is the user's traceback to read.
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise BadCall(f"no module '{error.name}' in {os.getcwd()} or the Python path ({sys.executable})") from None
        raise
    for part in path.split("."):
        if not hasattr(found, part):
            public = ", ".join(sorted(name for name in vars(found) if not name.startswith("_"))[:20])
            raise BadCall(f"'{module_name}' has no '{part}' (it has: {public})")
        found = getattr(found, part)
    if not callable(found):
        raise BadCall(f"'{reference}' is not a function")
    return found  # type: ignore[no-any-return]


def arguments(
    function: "Callable[..., Any]", inputs: "dict[str, Any]", available: "dict[str, Any]"
) -> "dict[str, Any]":
    """Return the keyword arguments: explicit inputs first, then earlier outputs and params of the parameters' names."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-ins do not tell
        return dict(inputs)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in inputs:
            if name not in parameters:
                raise BadCall(f"input '{name}' is no parameter (parameters: {', '.join(parameters) or 'none'})")
    given = dict(inputs)
    for name, parameter in parameters.items():
        if name in given or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in available:
            given[name] = available[name]
        elif parameter.default is parameter.empty:
            raise BadCall(
                f"parameter '{name}' has no value: no input, no earlier output and no job param of this name "
                f"(known: {', '.join(sorted(available)) or 'none'})"
            )
    return given


def by_name(answer: "Any", declared: "list[str]", step: str) -> "dict[str, Any]":
    """Return the answer as named outputs; raise BadCall when it does not fit the names of ``outputs:``."""
    if answer is None and not declared:
        return {}
    if isinstance(answer, dict) and all(name in answer for name in declared):
        return {name: answer[name] for name in declared} if declared else answer
    if len(declared) == 1:
        return {declared[0]: answer}
    if not declared:
        return {step: answer}  # better kept under the step's name than lost after hours of work
    names = ", ".join(declared)
    if isinstance(answer, dict):
        missing = ", ".join(name for name in declared if name not in answer)
        raise BadCall(f"declared output '{missing}' is not in the answer ({', '.join(map(str, answer))})")
    if not isinstance(answer, (tuple, list)):
        raise BadCall(f"answered one {type(answer).__name__} for the outputs {names}")
    if len(answer) != len(declared):
        raise BadCall(f"answered {len(answer)} values for {len(declared)} outputs ({names})")
    return dict(zip(declared, answer))  # noqa: B905 - Python 3.6; lengths were compared


def as_json(outputs: "dict[str, Any]") -> str:
    """Return the outputs as JSON; raise BadCall that names the key whose value is none."""
    parts = []
    for name, value in outputs.items():
        if not isinstance(name, str):
            raise BadCall(f"output name {name!r} is not text")
        try:
            parts.append(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}")
        except (TypeError, ValueError, RecursionError) as error:
            raise BadCall(
                f"output '{name}' ({type(value).__name__}) cannot be kept as JSON: {error}; return plain numbers, "
                "text, lists and mappings (numpy: .item() or .tolist(); a file: its path as text)"
            ) from None
    return "{" + ", ".join(parts) + "}"


def tell(message: str) -> None:
    """Leave the step's one-line error message where the stepper finds it."""
    with open(os.environ["JOBMILL_ERROR_FILE"], "w", encoding="utf-8", errors="replace") as error_file:
        error_file.write(" ".join(message.split()) + "\n")


def main(call_file: str) -> int:
    """Make the call and write its outputs to $JOBMILL_STEP_OUTPUTS; return the exit value."""
    with open(call_file, encoding="utf-8") as text:
        call = json.load(text)
    sys.path[0] = os.getcwd()  # it was this file's folder, whose modules are nobody's business here
    try:
        function = find(call["function"])
        answer = function(**arguments(function, call["inputs"], call["available"]))
        outputs = as_json(by_name(answer, call["outputs"], call["step"]))
    except BadCall as error:
        tell(f"{call['function']}: {error}")
        sys.stderr.write(f"jobmill: {call['function']}: {error}\n")
        return 2
    except Exception as error:
        traceback.print_exc()
        tell(f"{type(error).__name__}: {error}")
        return 1
    with open(os.environ["JOBMILL_STEP_OUTPUTS"], "w", encoding="utf-8") as outputs_file:
        outputs_file.write(outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
