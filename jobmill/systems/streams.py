"""What a launch finds in its run folder before it starts: its own files, and where its streams go.

Standard library only, Python 3.6 and later; also runs as the user of a job (`as_user`).
"""

import os

from jobmill.systems import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jobmill.systems.spawn import Open


def place(folder: bytes, path: str, home: "str | None" = None) -> bytes:
    """Return a path of a launch as this host knows it; ``home``: what ``~`` is, where it is not ours."""
    found = path.encode("utf-8", "surrogateescape")
    if home is not None and (found == b"~" or found.startswith(b"~/")):
        found = home.encode("utf-8", "surrogateescape") + found[1:]
    return os.path.join(folder, os.path.expanduser(found) if found.startswith(b"~") else found)


def opens(folder: bytes, stdin: "bytes | None", stdout: "bytes | None", stderr: "bytes | None") -> "list[Open]":
    """Return what the child opens; links in the run folder show where streams went that are elsewhere."""
    given = stdin or b"/dev/null"
    found: "list[Open]" = [(0, given, spawn.READ)]
    if stdin:
        spawn.refuse_pipe(given, "stdin")
    if stdout and stderr:
        found.append((1, folder + b"/spawned", spawn.APPEND))  # what only the child makes: see was_entered
    for fd, name, path in ((1, b"stdout", stdout), (2, b"stderr", stderr)):
        if not path:
            found.append((fd, folder + b"/" + name, spawn.APPEND))
            continue
        spawn.refuse_pipe(path, name.decode())
        if path != folder + b"/" + name:
            os.symlink(path, folder + b"/" + name)
        same = fd == 2 and stdout and path == stdout
        found.append((fd, None if same else path, spawn.APPEND))
    return found


def write_file(folder: bytes, name: str, text: str) -> None:
    """Write one of the launch's own files into its run folder."""
    path = os.path.join(folder, name.encode("utf-8", "surrogateescape"))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)
