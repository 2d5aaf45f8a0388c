"""Reads how far a job with steps has come, from the `steps` file that the stepper keeps in the run folder.

Standard library only, Python 3.6 and later.
"""

import os

from jobmill.systems import handover

TAIL = 1024  # bytes: more than two lines of the file


def progress(folder: str, uid: "int | None" = None) -> "str | None":
    """Return ``3/7 map`` for the step that began or ended last, or None when the job has no steps yet.

    One open and one read of the file's end, whatever its length; a last line that is not whole yet is passed over.
    ``uid``: of the folder's user, where it was given to one.
    """
    try:
        with os.fdopen(handover.open_own(os.fsencode(folder), b"steps", uid), "rb") as steps:
            size = steps.seek(0, 2)
            steps.seek(max(0, size - TAIL))
            text = steps.read(TAIL)
    except OSError:
        return None
    for line in reversed(text[: text.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines()):
        words = line.split(" ", 3)  # started 3/7 map <time> | ended 3/7 map exit=0 wall=1.2
        if len(words) == 4 and words[0] in ("started", "ended"):
            return "%s %s" % (words[1], words[2])
    return None
