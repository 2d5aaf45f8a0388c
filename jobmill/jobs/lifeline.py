"""What ends a running step when its stepper was killed without a word; standard library only, Python 3.6 or later."""

# (it runs on hosts that have nothing but Python 3.6)

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

ENDS_US = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)  # schedulers warn with these before they kill; the step may care


class Lifeline:
    """A forked child that only waits: when the stepper is gone without a word, it kills the running step's group."""

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.writer)
            self.watch(reader)
        os.close(reader)

    def tell(self, group: int) -> None:
        """Say which group runs now; 0: none. The step's child says it before it executes, so no moment is missed."""
        with contextlib.suppress(OSError):  # the lifeline was killed: the steps go on without it
            os.write(self.writer, b"%d\n" % group)

    def cut(self) -> None:
        """End it, when no step runs any more."""
        os.close(self.writer)
        with contextlib.suppress(OSError):
            os.waitpid(self.pid, 0)

    @staticmethod
    def watch(reader: int) -> "NoReturn":
        """Wait for the pipe's end, which comes when the last one who could write is gone; then kill and leave."""
        for signum in ENDS_US + PASSED_ON:
            signal.signal(signum, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # nobody is to wait for us at the job's pipes
            os.dup2(null, stream)
        group, part = b"0", b"0\n"
        while part:
            group = part.split()[-1]
            part = os.read(reader, 4096)
        if group != b"0":
            with contextlib.suppress(OSError):
                os.killpg(int(group), signal.SIGKILL)
        os._exit(0)
