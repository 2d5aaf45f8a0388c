"""Wait for children without losing what they said: look at a dead child first, record its end, then let it go.

Standard library only, Python 3.6 and later. The kernel's waitid takes the resource usage as a fifth argument that
neither glibc nor Python hand on; with WNOWAIT the child stays a zombie, so whoever dies between the look and the
record leaves the child, its status and its usage to the guard. Source: waitid(2), "C library/kernel differences".
"""

import ctypes
import os
import struct

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
WAITID = {"x86_64": 247, "aarch64": 95, "riscv64": 95, "loongarch64": 95, "ppc64le": 272, "ppc64": 272, "s390x": 281}

CLD_EXITED = os.CLD_EXITED

_libc = ctypes.CDLL(None, use_errno=True)
_number = WAITID.get(os.uname()[4]) if ctypes.sizeof(ctypes.c_long) == 8 else None
_info = ctypes.create_string_buffer(128)
_usage = ctypes.create_string_buffer(144)
_read_info = struct.Struct("@iii4xiIi").unpack_from  # signo, errno, code, pid, uid, status (64 bit)
_read_usage = struct.Struct("@16l").unpack_from
_flags = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Usage:
    """What a child and its waited-for descendants used."""

    __slots__ = ("blocks_in", "blocks_out", "cpu", "memory")

    def __init__(self, cpu: float, memory: int, blocks_in: int, blocks_out: int) -> None:
        self.cpu = cpu  # seconds, user and system
        self.memory = memory  # largest resident set, KiB
        self.blocks_in = blocks_in  # of 512 bytes, read from disk
        self.blocks_out = blocks_out


def prctl(option: int, value: int) -> bool:
    """Call prctl(2); return False when this kernel refuses."""
    return bool(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)


def peek() -> "tuple[int, int, int, Usage] | None":
    """Return (pid, code, status, Usage) of one dead child that stays a zombie, or None; ChildProcessError: no child.

    ``code`` and ``status`` are si_code and si_status of waitid(2).
    """
    if _number is None:
        return _peek_without_usage()
    while True:
        if _libc.syscall(_number, 0, 0, _info, _flags, _usage) == 0:
            break
        error = ctypes.get_errno()
        if error == 10:  # ECHILD
            raise ChildProcessError(error, "no child")
        if error != 4:  # EINTR
            raise OSError(error, os.strerror(error))
    _, _, code, pid, _, status = _read_info(_info)
    if pid == 0:
        return None
    value = _read_usage(_usage)
    cpu = value[0] + value[2] + (value[1] + value[3]) / 1e6
    return pid, code, status, Usage(cpu, value[4], value[11], value[12])


def release(pid: int) -> None:
    """Let a looked-at zombie go; nothing happens when it went already."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def _peek_without_usage() -> "tuple[int, int, int, Usage] | None":
    """Look by Python's own waitid; of the usage only the zombie's processor time can be read then."""
    found = os.waitid(os.P_ALL, 0, _flags)
    if found is None:
        return None
    try:
        with open("/proc/%d/stat" % found.si_pid, "rb") as file:
            field = file.read().rpartition(b")")[2].split()
        cpu = (int(field[11]) + int(field[12])) / float(os.sysconf("SC_CLK_TCK"))
    except (OSError, IndexError, ValueError):
        cpu = 0.0
    return found.si_pid, found.si_code, found.si_status, Usage(cpu, 0, 0, 0)
