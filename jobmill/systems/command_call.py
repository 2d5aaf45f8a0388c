"""Runs one command: its words, a small environment, a deadline, no shell.

Standard library only, Python 3.6 and later: the desk at a far host answers by it.
"""

import os
import pwd
import signal

from jobmill.systems import run_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERBS = ("call", "user")
# what a command needs of ours, or the login's; a job's environment must not depend on who started the worker
KEPT = ("HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")
LEFT = 0.5  # seconds for what a killed command has written


def call(
    words: "list[str]", env: "dict[str, str]", path: "str | None", given: str, deadline: float
) -> "dict[str, Any]":
    """Return ``code``, ``out`` and ``err`` of a command. ``path``: where it is looked for, None: in our own PATH.

    Or {"missing": PATH} where there is no such program, {"refused": words} where it cannot be started; nothing has
    happened then. {"late": True}: it was killed after ``deadline`` seconds.
    """
    import shutil  # which whoever asks of launches alone does not wait for
    import subprocess

    full = environment(env, path)
    program = shutil.which(words[0], path=full["PATH"])
    if program is None:
        return {"missing": full["PATH"]}
    try:
        process = subprocess.Popen(
            [program, *words[1:]],
            env=full,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that what it starts ends with it
        )
    except OSError as error:
        return {"refused": "%s cannot be started: %s" % (program, error.strerror)}
    try:
        out, err = process.communicate(run_folder.encode(given), timeout=deadline)
    except subprocess.TimeoutExpired:
        _kill(process.pid)
        try:
            process.communicate(timeout=LEFT)
        except subprocess.TimeoutExpired:
            pass  # it waits for a disk, or what it started has left its session: nobody waits for it here
        return {"late": True}
    return {"code": process.returncode, "out": _text(out), "err": _text(err)}


def environment(env: "dict[str, str]", path: "str | None") -> "dict[str, str]":
    """Return what a command sees: a little of ours, its PATH, and what it is given on top."""
    full = {key: os.environ[key] for key in KEPT if key in os.environ}
    full["PATH"] = path or os.environ.get("PATH") or os.defpath
    full.update(env)
    return full


def user() -> str:
    """Return the name of who has logged in, as schedulers know it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("USER") or str(os.getuid())


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
