"""What a scheduler starts beside a launch, when that has started or ended: a command of the site, told of the launch.

Standard library only, Python 3.6 and later. The scheduler's word that something started or ended also comes for what
was killed in line; the launch's marker says what is true. What the command says, and how it ended, goes into
`callbacks.log` of the run folder; nothing of it changes how the launch ended.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from jobmill.systems import batch_job, launch_token, run_folder

LOG = b"callbacks.log"
PATIENCE = 60.0  # seconds for which a file system may show the marker, or the record, late
LOOK = 0.5  # seconds between looks
SAID = 65536  # bytes of what a callback says that are kept
START, END = "start", "end"


class Another(Exception):
    """The marker is another submission's: that one has callbacks of its own."""


def wait(folder: bytes, token: str, guard: str, role: str) -> "run_folder.Run | None":
    """Return the launch once it has taken its marker, for ``end`` once its record is there; None: it never began.

    Raises Another.
    """
    until = time.time() + PATIENCE
    while True:
        run = run_folder.read(folder)
        if run is not None and run.token == token and run.sealed:
            return None
        if run is not None and (run.token != token or run.guard != guard):
            raise Another
        if (run is not None and (role == START or run.end is not None)) or time.time() > until:
            return run
        time.sleep(LOOK)


def told(run: "run_folder.Run | None") -> "dict[str, str]":
    """Return what is known of an end, by variables; without a record: undetermined."""
    if run is None:
        return {"JOBMILL_EXIT_STATUS": "aborted_before_running"}
    end = json.loads(run.end) if run.end else {}
    values = {
        "JOBMILL_EXIT_STATUS": end.get("exit_status", "undetermined"),
        "JOBMILL_EXIT_VALUE": end.get("exit_value"),
        "JOBMILL_TERM_SIG": end.get("term_sig"),
        "JOBMILL_REASON": end.get("reason"),
    }
    return {key: str(value) for key, value in values.items() if value is not None}


def call(spool: bytes, token: str, guard: str, library: str, role: str, argv: "list[str]") -> int:
    """Run one callback; return its exit code, 0 where there was nothing to tell."""
    folder = run_folder.folder_of(spool, token)
    try:
        run = wait(folder, token, guard, role)
    except Another:
        return 0
    _, job, number = launch_token.split(token)
    if run is None and role == START:
        note(folder, b"start: it never started: not called\n")
        return 0
    given = {"JOBMILL_CALLBACK": role, "JOBMILL_JOB_ID": job, "JOBMILL_RUN": str(number)}
    given.update(JOBMILL_NATIVE_ID=guard.partition(":")[2], JOBMILL_RUN_FOLDER=os.fsdecode(folder))
    if role == END:
        given.update(told(run))
    env = batch_job.base_environment(given, library)
    with tempfile.TemporaryFile() as said, open(os.devnull, "rb") as nothing:
        try:
            code = subprocess.call(argv, env=env, cwd="/", stdin=nothing, stdout=said, stderr=said)
        except OSError as error:
            code = 127
            said.write(("%s: %s\n" % (argv[0], error.strerror)).encode("utf-8", "surrogateescape"))
        said.seek(max(0, said.seek(0, os.SEEK_END) - SAID))
        words = "exit %d" % code if code >= 0 else "signal %d" % -code
        more = "" if code == 0 else ", which changes nothing of the job"
        note(folder, said.read() + ("%s: %s%s\n" % (role, words, more)).encode())
    return code if code >= 0 else 128 - code


def note(folder: bytes, text: bytes) -> None:
    """Add to the log, at once. It is nobody's standard stream: who has one in the run folder is of the launch."""
    with open(os.path.join(folder, LOG), "ab", 0) as log:
        log.write(text)


def main() -> None:
    """Run as a launch is, with its role, the scheduler's id of the launch, and the command after that."""
    spool, token, scheduler, _, library, _, _, role, native = sys.argv[1:10]
    try:
        sys.exit(call(os.fsencode(spool), token, "%s:%s" % (scheduler, native), library, role, sys.argv[10:]))
    except (OSError, ValueError) as error:
        sys.stderr.write("jobmill: callback %s of %s: %s\n" % (role, token, error))
        sys.exit(1)
