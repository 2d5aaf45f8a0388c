"""Gives the run folder of a launch to the user as whom it runs, and to nobody else, by access lists (acl(5)).

Standard library only, Python 3.6 and later. The folder stays ours, and sticky: its user makes files in it, and removes
and renames what is the user's own, but never the marker `run`. Whoever owned the folder could. What the user makes in
it we can read: its default access list says so. Works for root and for any other user alike.

The format of the attribute: linux/posix_acl_xattr.h.
"""

import errno
import os
import stat
import struct

USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32
NOBODY = 0xFFFFFFFF
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_NO_LISTS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def open_way(spool: bytes) -> None:
    """Let everybody pass through the spool and its folder `jobs` (not list them), and close all else in there first.

    A spool that is closed altogether keeps its user's jobs from their own run folders. So do the folders of ours in
    which a far host has its spools. Raises OSError.
    """
    for path in _above(spool):
        if not os.stat(path).st_mode & 0o001:
            os.chmod(path, os.stat(path).st_mode & 0o7770 | 0o001)
    jobs = os.path.join(spool, b"jobs")
    ways = [path for path in (jobs, spool) if os.stat(path).st_mode & 0o007 != 0o001]
    if not ways:
        return
    for folder in (b"guards", b"stage"):  # which others make with their own mode
        try:
            os.mkdir(os.path.join(spool, folder), 0o700)
        except FileExistsError:
            pass
    for above in (jobs, spool):
        for name in os.listdir(above):
            path = os.path.join(above, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode) and path != jobs:
                os.chmod(path, mode & 0o700)
    for path in ways:
        os.chmod(path, os.stat(path).st_mode & 0o770 | 0o001)


def _above(spool: bytes) -> "list[bytes]":
    """Return the folders of ours above a far host's spool: ``<folder>`` and ``<folder>/spool``; see `far_boot`."""
    folder, name = os.path.split(os.path.dirname(spool))
    far = name == b"spool" and os.path.isdir(os.path.join(folder, b"lib"))
    ours = [folder, os.path.join(folder, name)] if far else []
    return [path for path in ours if os.stat(path).st_uid == os.geteuid()]


def open_library(library: bytes, spool: bytes) -> None:
    """Let everybody read our own package where it was sent to, beside the spool: jobs with steps run a part of it.

    Raises OSError.
    """
    above = os.path.dirname(library)
    if above != os.path.join(os.path.dirname(os.path.dirname(spool)), b"lib"):
        return  # it was installed here
    if os.stat(above).st_mode & 0o001:
        return
    for folder, _, files in os.walk(library):
        os.chmod(folder, 0o755)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o644)
    os.chmod(above, 0o711)


def hand_over(folder: bytes, uid: int) -> None:
    """Let this user work in a run folder whose marker was taken; raise OSError, with words for access lists."""
    os.chmod(os.path.dirname(folder), 0o711)
    give_folder(folder, uid)


def give_folder(folder: bytes, uid: int) -> None:
    """Let this user, and nobody else but us, make files in a folder, which stays ours; raise OSError."""
    entries = [(USER_OBJ, 7, NOBODY), *_named(7, uid), (GROUP_OBJ, 0, NOBODY), (MASK, 7, NOBODY), (OTHER, 0, NOBODY)]
    try:
        os.setxattr(folder, DEFAULT, _packed([*entries[:1], *_named(7, uid, os.geteuid()), *entries[2:]]))
        os.setxattr(folder, ACCESS, _packed(entries))
    except OSError as error:
        if error.errno not in _NO_LISTS:
            raise
        words = "the file system has no access lists, which run_as needs; mount it with `acl`, or set another spool:"
        raise OSError(error.errno, words, folder) from None
    os.chmod(folder, stat.S_IMODE(os.stat(folder).st_mode) | stat.S_ISVTX)


def give(folder: bytes, uid: int, gid: int) -> None:
    """Give what was staged to a user, before it is moved to where the user can reach it."""
    folders = [folder]
    while folders:  # os.walk calls itself for each level, as deep as its caller's files are
        above = folders.pop()
        for name in os.listdir(above):
            path = os.path.join(above, name)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                folders.append(path)
            if os.geteuid() == 0:
                os.chown(path, uid, gid, follow_symlinks=False)
            elif not os.path.islink(path):
                mode = os.lstat(path).st_mode >> 6 & 7
                more = [(GROUP_OBJ, 0, NOBODY), (MASK, mode, NOBODY), (OTHER, 0, NOBODY)]
                lists = [(USER_OBJ, mode, NOBODY), *_named(mode, uid), *more]
                os.setxattr(path, ACCESS, _packed(lists))
                if os.path.isdir(path):
                    both = [(USER_OBJ, 7, NOBODY), *_named(7, uid, os.geteuid()), more[0], (MASK, 7, NOBODY), more[2]]
                    os.setxattr(path, DEFAULT, _packed(both))


def open_own(folder: bytes, name: bytes, uid: "int | None") -> int:
    """Return a descriptor that reads a file in a run folder; never waits for a pipe's writer; raises OSError.

    With ``uid``, of a user to whom the folder was given: only that user's own plain file, no link, which may lead to
    what that user must not read and we can.
    """
    path = os.path.join(folder, name)
    if uid is None:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == uid:
        return fd
    os.close(fd)
    raise OSError(errno.EACCES, "is no plain file of the job's user", path)


def _named(mode: int, *uids: int) -> "list[tuple[int, int, int]]":
    """Return the entries of users; in the order of their numbers, as the kernel wants them."""
    return [(USER, mode, uid) for uid in sorted({uid for uid in uids if uid})]


def _packed(entries: "list[tuple[int, int, int]]") -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
