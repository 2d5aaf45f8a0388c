"""The first words of ours on a far host: sent as text over a channel, executed there by its Python.

Standard library only, Python 3.6 and later, and whole in this one file. Whatever a login prints comes before a line
that holds the nonce; what follows it is ours. Lines that it writes, each after a line break:

    jobmill-wants <nonce>                    it has not got this version of us: the payload, a tar file, has to follow
    jobmill-ready <nonce> <JSON facts>       then it becomes the program that was asked for
    jobmill-error <nonce> <words>            and it leaves
"""

import os
import sys

# seconds without a word from the other end after which it is taken for gone; of a desk it is rather that nobody asks,
# and hosts open few channels (MaxSessions)
SILENCE = {"guard": "900", "far_desk": "30"}


def main(nonce: str, folder: str, digest: str, size: int, program: str, spool: str, words: "list[str]") -> None:
    """Install the payload below ``folder`` where it is not there yet, and become ``program`` with its arguments.

    ``folder``: absolute, or relative to the home folder. ``digest``: SHA-256 of the payload, ``size``: its bytes.
    ``program``: guard or far_desk; ``spool``: of which pipeline, a plain name. Its path is put before the ``words``.
    """
    import json

    def say(word: str, text: str = "") -> None:
        left = ("\njobmill-%s %s %s\n" % (word, nonce, text)).encode("utf-8", "surrogateescape")
        while left:
            left = left[os.write(1, left) :]

    def fail(text: str) -> None:
        say("error", text)
        os._exit(1)

    if sys.version_info < (3, 6) or not sys.platform.startswith("linux"):
        fail(
            "jobmill needs Python 3.6 and Linux there, this is Python %s on %s" % (sys.version.split()[0], sys.platform)
        )
    try:
        home = os.path.expanduser("~")
        folder = os.path.join(home, os.path.expanduser(folder))
        spool, library = os.path.join(folder, "spool", spool), os.path.join(folder, "lib", digest)
        own = [folder, os.path.join(folder, "lib"), os.path.join(folder, "spool"), spool]
        for name in own + [os.path.join(spool, it) for it in ("jobs", "guards", "stage")]:
            keep(name)
        if not os.path.isdir(library):
            say("wants")
            install(library, receive(size), digest)
        errors = os.open(os.path.join(spool, "guards", "errors"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except (OSError, ValueError) as error:
        fail("%s: %s" % (folder, error))
    facts = {
        "home": home,
        "folder": folder,
        "spool": spool,
        "library": library,
        "python": sys.executable,
        "version": sys.version.split()[0],
        "host": os.uname()[1],
        "user": os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.getuid()),
        "path": os.environ.get("PATH", ""),
        "cores": len(os.sched_getaffinity(0)),
    }
    say("ready", json.dumps(facts))
    os.dup2(errors, 2)
    os.environ["JOBMILL_SILENCE"] = SILENCE[program]
    os.chdir("/")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from jobmill.systems.%s import main; main()" % program
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", code, library, program, spool, *words])


def keep(name: str) -> None:
    """Make a folder that nobody else enters; raise ValueError for one in which others could write what we execute."""
    try:
        os.makedirs(name, 0o700)
    except FileExistsError:
        pass
    found = os.stat(name)
    if found.st_mode & 0o1000 and found.st_uid in (0, os.geteuid()):
        return  # as /tmp: nobody takes away what is ours in it
    if found.st_uid != os.geteuid() or found.st_mode & 0o002:
        whose = "is not ours" if found.st_uid != os.geteuid() else "can be written by everybody: chmod 700"
        raise ValueError("%s %s; name another `folder`" % (name, whose))


def receive(size: int) -> bytes:
    """Return so many bytes of the input; raise ValueError when it ends before."""
    parts = []
    while size > 0:
        part = os.read(0, min(size, 65536))
        if not part:
            raise ValueError("the connection ended within the payload")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def install(library: str, payload: bytes, digest: str) -> None:
    """Unpack a payload to its place, whole or not at all; who comes second finds it there."""
    import hashlib
    import io
    import shutil
    import tarfile

    if hashlib.sha256(payload).hexdigest()[: len(digest)] != digest:
        raise ValueError("the payload was changed on its way")
    new = "%s.%d.new" % (library, os.getpid())
    with tarfile.open(fileobj=io.BytesIO(payload)) as packed:
        for member in packed.getmembers():  # plain files of ours; `extractall` warns differently in each Python
            place = os.path.join(new, member.name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            source = packed.extractfile(member)
            with open(place, "wb") as file:
                file.write(source.read() if source else b"")
    try:
        os.rename(new, library)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not os.path.isdir(library):
            raise
