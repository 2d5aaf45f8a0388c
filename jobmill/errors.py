"""Every error that jobmill raises on purpose.

JobmillError
├── PermanentError            the same call fails again: somebody has to change something   (exit 100)
│   ├── SpecError             a job file says something that cannot be                      (exit 2)
│   ├── ConfigError           jobmill.yaml says something that cannot be                    (exit 2)
│   ├── UnknownName           a job, system, class or rule that nobody knows                (exit 2)
│   ├── SystemRefused         an execution system will never take this
│   └── StageFailed           files cannot be brought to a job's host or back
└── TransientError            the same call may succeed later                               (exit 111)
    ├── ServerUnavailable     no answer from the Redis server
    ├── ServerFull            the server is at maxmemory (noeviction)
    ├── SystemUnavailable     an execution system cannot be reached now
    ├── StageStopped          files are not wanted any more: what brings them stops
    └── Evicted               this process was declared dead; it has to register anew
"""

from __future__ import annotations

from collections.abc import Iterable


class JobmillError(Exception):
    """Root of all; ``exit_code`` is what a command exits with."""

    exit_code = 1


class PermanentError(JobmillError):
    """The same call fails again until somebody changes something."""

    exit_code = 100


class TransientError(JobmillError):
    """The same call may succeed later, unchanged."""

    exit_code = 111


class UsageError(PermanentError):
    """The words of a call are off."""

    exit_code = 2


class SpecError(UsageError):
    """A job document that cannot become a job; says where (file, line, key) and what to do."""


class ConfigError(UsageError):
    """A configuration that cannot be used; says where (file, line, key) and what to do."""


class UnknownName(UsageError):
    """A name that nobody knows; lists the nearest or all the known ones."""


class SystemRefused(PermanentError):
    """An execution system will never take this submission; holds its words verbatim."""


class StageFailed(PermanentError):
    """Files cannot be brought to a job's host or back; says which, and why."""


class ServerUnavailable(TransientError):
    """No Redis server answers at the configured address."""


class ServerFull(TransientError):
    """The Redis server is at its maxmemory and refuses what would add to it."""


class SystemUnavailable(TransientError):
    """An execution system cannot be reached now."""


class StageStopped(TransientError):
    """Whoever asked for files does not want them any more, or not now; raised by the progress of what brings them."""


class Evicted(TransientError):
    """This process was declared dead while it slept; it must register under a new name."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name nearest to ``word``, else an empty string."""
    import difflib  # only a wrong word needs it

    match = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else ""
