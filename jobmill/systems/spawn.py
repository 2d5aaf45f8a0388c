"""Start one process in a session of its own: posix_spawn, or fork and exec where Python is too old for it.

Standard library only, Python 3.6 and later. One thread only: the working directory is changed around the spawn.
"""

import errno
import os
import signal
import stat

TYPE_CHECKING = False  # what a type checker takes for true; importing `typing` costs a start several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Open = tuple[int, "bytes | None", int]
    Spawn = Callable[[bytes, "list[bytes]", "dict[bytes, bytes]", "list[Open]"], int]

# What Python ignores or we catch must not be inherited, nor what a shell ignores for its background jobs (SIGQUIT).
_DEFAULTS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]
_DEFAULTS.append(signal.SIGCHLD)
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
_native: "Callable[..., Any] | None" = getattr(os, "posix_spawn", None)  # Python 3.8
_OPEN, _DUP2 = getattr(os, "POSIX_SPAWN_OPEN", 0), getattr(os, "POSIX_SPAWN_DUP2", 0)
READ, APPEND = os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # the shell's convention for a command that could not be started


class StartFailed(Exception):
    """The launch could not start: what, path, what to do; ``exit_value`` as a shell would have it, or None."""

    def __init__(self, message: str, exit_value: "int | None" = None) -> None:
        Exception.__init__(self, message)
        self.exit_value = exit_value


def start(argv: "list[bytes]", env: "dict[bytes, bytes]", workdir: bytes, opens: "list[Open]") -> int:
    """Start ``argv`` (bytes) in ``workdir`` and return its pid; raise StartFailed.

    ``opens``: (descriptor, path, flags) in the order in which the child opens them; path None duplicates stdout.
    """
    if not argv or not argv[0]:
        raise StartFailed("the command is empty; name a program", NOT_FOUND)
    _enter(workdir)
    return plain(argv, env, opens)


def _enter(workdir: bytes) -> None:
    try:
        os.chdir(workdir)
    except OSError as error:
        raise StartFailed(
            "cannot enter the working directory %s: %s; create it or correct `workdir`"
            % (_show(workdir), error.strerror)
        ) from None
    except ValueError:
        raise StartFailed("the working directory's name holds a null byte") from None


def become(
    argv: "list[bytes]",
    env: "dict[bytes, bytes]",
    workdir: bytes,
    opens: "list[Open]",
    last: "Callable[[], object]",
) -> None:
    """Become ``argv`` in ``workdir`` ourselves, in this process; returns never, raises StartFailed.

    ``last``: is called when only the exec itself can go wrong yet.
    """
    if not argv or not argv[0]:
        raise StartFailed("the command is empty; name a program", NOT_FOUND)
    _enter(workdir)
    program = argv[0] if b"/" in argv[0] else _find(argv[0], env)
    try:
        _open(opens)
        for number in _DEFAULTS:
            signal.signal(number, signal.SIG_DFL)
        last()
        try:
            os.execve(program, argv, env)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            os.execve(b"/bin/sh", [b"/bin/sh", program, *argv[1:]], env)
    except ValueError as error:
        raise StartFailed("the command or its environment cannot be handed to a program: %s" % error) from None
    except OSError as error:
        raise _diagnosis(error, program, opens) from None


def plain(argv: "list[bytes]", env: "dict[bytes, bytes]", opens: "list[Open]") -> int:
    """Do as `start` does, in the working directory that we have."""
    program = argv[0] if b"/" in argv[0] else _find(argv[0], env)
    try:
        return _spawn(program, argv, env, opens)
    except ValueError as error:
        raise StartFailed("the command or its environment cannot be handed to a program: %s" % error) from None
    except OSError as error:
        if error.errno == errno.ENOEXEC:  # a script without `#!`: every shell runs it by sh
            try:
                return _spawn(b"/bin/sh", [b"/bin/sh", program, *argv[1:]], env, opens)
            except OSError as second:
                error = second
        raise _diagnosis(error, program, opens) from None


def _fork(program: bytes, argv: "list[bytes]", env: "dict[bytes, bytes]", opens: "list[Open]") -> int:
    """Do the same by hand (Python 3.6, 3.7)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            _open(opens)
            for number in _DEFAULTS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.execve(program, argv, env)
        except OSError as error:
            os.write(writer, b"%d" % (error.errno or errno.EIO))
        except ValueError:
            os.write(writer, b"%d" % errno.EINVAL)
        finally:
            os._exit(127)
    os.close(writer)
    try:
        text = os.read(reader, 16)
    finally:
        os.close(reader)
    if text:
        os.waitpid(pid, 0)
        raise OSError(int(text), os.strerror(int(text)))
    return pid


def _open(opens: "list[Open]") -> None:
    """Open the streams of a program, which we are about to become."""
    for fd, path, flags in opens:
        if path is None:
            os.dup2(1, fd)
            continue
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, fd)
        if opened != fd:
            os.close(opened)


def _posix_spawn(program: bytes, argv: "list[bytes]", env: "dict[bytes, bytes]", opens: "list[Open]") -> int:
    """Start by posix_spawn, which does not copy our memory's maps."""
    actions = [(_DUP2, 1, fd) if path is None else (_OPEN, fd, path, flags, 0o666) for fd, path, flags in opens]
    if _native is None:
        raise NotImplementedError("os.posix_spawn came with Python 3.8")
    pid = _native(program, argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_DEFAULTS)
    return int(pid)


def _choose() -> "Spawn":
    """Return the fastest way to start a process that this Python has."""
    if _native is None:
        return _fork
    try:
        os.waitpid(_native(b"/bin/true", [b"true"], {}, setsid=True), 0)
    except (NotImplementedError, OSError):  # a C library without POSIX_SPAWN_SETSID
        return _fork
    return _posix_spawn


_chosen: "list[Spawn]" = []


def _spawn(program: bytes, argv: "list[bytes]", env: "dict[bytes, bytes]", opens: "list[Open]") -> int:
    """Start a process; the way is chosen once, and not by who only becomes one."""
    if not _chosen:
        _chosen.append(_choose())
    return _chosen[0](program, argv, env, opens)


def _find(name: bytes, env: "dict[bytes, bytes]") -> bytes:
    """Return the path of a command as a shell would find it by the job's own PATH."""
    blocked = None
    for folder in env.get(b"PATH", _DEFAULT_PATH).split(b":"):
        path = os.path.join(folder or b".", name)
        try:
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                return path
            if blocked is None and os.path.isfile(path):
                blocked = path
        except ValueError:
            raise StartFailed("the command's name holds a null byte", NOT_FOUND) from None
    if blocked is not None:
        raise StartFailed("%s is not executable; chmod +x it" % _show(blocked), NOT_EXECUTABLE)
    raise StartFailed(
        "command %s not found in PATH=%s; correct its name or set PATH in `env`"
        % (_show(name), _show(env.get(b"PATH", _DEFAULT_PATH))),
        NOT_FOUND,
    )


def _diagnosis(error: OSError, program: bytes, opens: "list[Open]") -> StartFailed:
    """Return the StartFailed that names what a failed spawn could not open or execute."""
    for fd, path, flags in opens:
        if path is None:
            continue
        try:
            os.close(os.open(path, (flags & ~os.O_CREAT) | os.O_NONBLOCK))
        except OSError as other:
            if other.errno == errno.ENOENT and flags & os.O_CREAT and os.access(os.path.dirname(path) or b".", os.W_OK):
                continue
            name = ("stdin", "stdout", "stderr")[fd]
            fix = "correct `stdin`" if fd == 0 else "make its folder, or correct `%s`" % name
            return StartFailed("cannot open %s %s: %s; %s" % (name, _show(path), other.strerror, fix))
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.exists(program):
        return StartFailed("command %s not found; correct its path" % _show(program), NOT_FOUND)
    if error.errno == errno.ENOENT:
        return StartFailed(
            "%s: its interpreter (the `#!` line, or its loader) is not there" % _show(program), NOT_FOUND
        )
    if error.errno == errno.E2BIG:
        return StartFailed(
            "the command and its environment are too large (E2BIG); pass the data in a file", NOT_EXECUTABLE
        )
    if error.errno == errno.EACCES and os.path.isdir(program):
        return StartFailed("%s is a directory, not a program" % _show(program), NOT_EXECUTABLE)
    if error.errno == errno.EACCES:
        return StartFailed("%s is not executable; chmod +x it" % _show(program), NOT_EXECUTABLE)
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        fix = "this machine is out of processes or memory (ulimit -u); run fewer jobs at once"
        return StartFailed("cannot start %s: %s; %s" % (_show(program), error.strerror, fix))
    return StartFailed("cannot execute %s: %s" % (_show(program), error.strerror), NOT_EXECUTABLE)


def refuse_pipe(path: bytes, key: str) -> None:
    """Raise StartFailed when a path is a named pipe: opening it would stop every other job as well."""
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise StartFailed("%s %s is a named pipe; open it in the command instead" % (key, _show(path)))
    except OSError:
        pass
    except ValueError:
        raise StartFailed("the path of %s holds a null byte" % key) from None


def _show(path: bytes) -> str:
    """Return bytes for a message."""
    return repr(path.decode("utf-8", "backslashreplace"))
