"""The child of `drmaa_child`: one DRMAA session, asked and answering by lines of JSON.

Run by its path, as ``python -P drmaa_session.py <answers' descriptor> <folder> <contact>``: libraries want their
environment before Python starts, allow one session a process, print to stdout, and crash. It imports nothing of ours.

In the folder: ``<id>.job`` holds the token of each job, written before the answer with its id; ``<id>.end`` what the
library says of its end, which only the session that submitted it is told; ``session`` the contact with which whoever
comes next takes that session up again, held with a lock by one at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import signal
import sys
import threading
import time
import urllib.parse
from contextlib import suppress
from typing import Any

PAUSE = 1.0  # seconds between two looks for ends
LAST = 3.0  # seconds to leave the session in, once our parent is gone
WORDS = 2000  # characters of an error that are told
NONE_ENDED = ("ExitTimeoutException", "InvalidJobException", "NoActiveSessionException")
RECONNECTS = "session="  # contacts that begin so name a session, others a server


class Session:
    """One session, and the jobs that were submitted in it."""

    def __init__(self, drmaa: Any, folder: str, contact: str) -> None:
        """Begin, or take up, a session; raises what the library raises."""
        self.drmaa = drmaa
        self.folder = folder
        self.session = drmaa.Session()
        self.file = self._locked()
        old = self.file.read().decode("utf-8", "replace") if self.file is not None else ""
        self.resumed = False
        if old.startswith(RECONNECTS) and not contact:
            with suppress(Exception):
                self.session.initialize(old)
                self.resumed = True
        if not self.resumed:
            self.session.initialize(contact or None)
        if self.file is not None:
            self.file.seek(0)
            self.file.truncate()
            self.file.write(self.session.contact.encode())
            self.file.flush()

    def _locked(self) -> Any:
        """Return the file `session`, held by us, or None where another holds it."""
        file = open(os.path.join(self.folder, "session"), "a+b")  # noqa: PTH118, PTH123, SIM115  (one plain program)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        file.seek(0)
        return file

    def told(self, verb: str, asked: dict[str, Any]) -> Any:
        """Do what one line asks for."""
        if verb == "about":
            told = {"version": str(self.session.version), "contact": self.session.contact, "resumed": self.resumed}
            return {**told, "system": self.session.drmsInfo, "library": self.session.drmaaImplementation}
        if verb in ("run", "bulk"):
            return self._run(asked)
        if verb == "control":
            return {id_: self._tried(self.session.control, id_, asked["action"])[1] for id_ in asked["ids"]}
        if verb == "states":
            return {id_: self._tried(self.session.jobStatus, id_) for id_ in asked["ids"]}
        raise ValueError(f"no such verb: {verb}")

    def _run(self, asked: dict[str, Any]) -> list[str]:
        template = self.session.createJobTemplate()
        try:
            for name, value in asked["template"].items():
                setattr(template, name, value)
            if "last" in asked:
                ids = self.session.runBulkJobs(template, asked["first"], asked["last"], asked["step"])
            else:
                ids = [self.session.runJob(template)]
        finally:
            self.session.deleteJobTemplate(template)
        for id_ in ids:
            self._put(f"{_name(id_)}.job", asked["token"])
        return list(ids)

    @staticmethod
    def _tried(verb: Any, *words: str) -> tuple[Any, str]:
        """Return what it says, and the name of the error where it has none."""
        try:
            return verb(*words), ""
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"[:WORDS]

    def harvest(self) -> None:
        """Write down what ended since the last time."""
        while True:
            try:
                info = self.session.wait(self.drmaa.Session.JOB_IDS_SESSION_ANY, self.drmaa.Session.TIMEOUT_NO_WAIT)
            except Exception as error:
                if "code 24" in str(error):  # one that never used anything: nothing is known of its end
                    continue
                return
            name = _name(info.jobId)
            try:
                with open(os.path.join(self.folder, f"{name}.job"), encoding="utf-8") as file:  # noqa: PTH118, PTH123
                    token = file.read()
            except OSError:
                continue  # forgotten already, or of somebody else
            self._put(f"{name}.end", json.dumps({**info._asdict(), "token": token}))

    def _put(self, name: str, text: str) -> None:
        """Write a file whole, or not at all."""
        path = os.path.join(self.folder, name)  # noqa: PTH118
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
        os.replace(file.name, path)  # noqa: PTH105

    def leave(self) -> None:
        """Leave the session; its jobs go on."""
        with suppress(Exception):
            self.session.exit()


def _name(id_: str) -> str:
    return urllib.parse.quote(id_, safe="")


def _listen(lines: queue.Queue[bytes | None]) -> None:
    """Hand lines on; when our parent is gone, so are we, even if the library hangs."""
    for line in sys.stdin.buffer:
        if not line.endswith(b"\n"):
            break
        lines.put(line)
    lines.put(None)
    threading.Event().wait(LAST)
    os._exit(1)


def main() -> None:
    """Answer one line for each line, until stdin ends."""
    descriptor, folder, contact = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at our parent's terminal is for our parent

    def say(told: dict[str, Any]) -> None:
        data = json.dumps(told).encode() + b"\n"
        while data:
            data = data[os.write(descriptor, data) :]

    try:
        import drmaa  # type: ignore[import-untyped]

        session = Session(drmaa, folder, contact)
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"[:WORDS]})
        return
    say({"ok": True})
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    heard = time.monotonic()
    while True:
        if time.monotonic() - heard >= PAUSE:
            with suppress(OSError):  # a full disk: what was told is lost, our own records are not
                session.harvest()
            heard = time.monotonic()
        try:
            line = lines.get(timeout=PAUSE)
        except queue.Empty:
            continue
        if line is None:
            session.leave()
            return
        asked = json.loads(line)
        try:
            say({"ok": session.told(asked["verb"], asked)})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"[:WORDS]})


if __name__ == "__main__":
    main()
