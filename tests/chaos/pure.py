"""What is known to have no effect outside of the process's memory; everything else has one (`tests.chaos.effects`)."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# A log line, and what dies with the process (signal handlers, sets of select, watchdogs, flags of descriptors, pipes
# that nobody else has yet, threads, locks and lines between threads), is no effect: nobody else ever reads it. What a
# thread does has points of its own.
PURE_MODULES = _set("""
    argparse ast base64 collections contextlib copy ctypes dataclasses datetime difflib enum errno faulthandler fnmatch
    functools getpass hashlib heapq inspect itertools json logging math operator pydantic random re secrets select
    setproctitle shlex socket stat string struct textwrap time types typing urllib yaml zlib
""")
PURE = _set("""
    os.fsencode os.fsdecode os.getpid os.getppid os.getuid os.geteuid os.uname os.cpu_count os.sysconf os.strerror
    os.environ.get os.environ.items os.sched_getaffinity os.WIFEXITED os.path.join os.path.dirname os.path.basename
    os.path.split os.path.splitext os.path.normpath os.path.abspath os.path.isabs os.path.expanduser
    posixpath.join posixpath.dirname posixpath.basename posixpath.normpath glob.has_magic
    queue.SimpleQueue threading.Lock threading.Thread threading.get_ident
    os.umask os.get_inheritable os.get_blocking os.set_inheritable os.set_blocking os.urandom os.pipe os.dup2 os.chdir
    signal.signal signal.set_wakeup_fd signal.pthread_sigmask signal.sigtimedwait signal.Signals
    pathlib.Path pathlib.PurePath pwd.getpwuid sys.intern
    importlib.resources.files importlib.util.spec_from_file_location importlib.util.module_from_spec
    redis.Redis redis.Redis.from_url redis.retry.Retry redis.backoff.NoBackoff redis.sentinel.Sentinel
""")
IMPURE_BUILTINS = _set("open exec eval input __import__ breakpoint")
# Methods of objects whose class is not known: of texts and containers; of Counter, re, random, parsers of arguments,
# loggers, paths without a look at the disk, sets of select, pydantic, struct, hashes.
PURE_METHODS = frozenset(
    name
    for kind in (str, bytes, bytearray, dict, list, set, frozenset, tuple, int, float)
    for name in dir(kind)
    if not name.startswith("_")
) | _set("""
    popleft appendleft most_common match fullmatch search sub finditer findall group groups uniform choice random
    add_argument parse_args debug info warning error exception getMessage setFormatter setLevel formatException
    is_absolute with_name relative_to expanduser absolute as_posix register unregister modify fileno
    _replace model_copy model_validate model_dump unpack_from pack total_seconds timestamp isoformat hexdigest digest
""")
# Calls by their text: clocks and random numbers that are handed in, unpackers, short names, the names of keys; words on
# how far a transfer is, lines between threads, and what is told to a load or flight, of which only its thread hears.
PURE_VARIABLES = _set("""
    self._clock clock self._chance keys encode _encode reopen _read_info _read_usage poll.poll poller.poll
    record.keys.job self._record.keys.job record.keys.spec record.keys.runs pace.note retry.wait
    tick self._progress pieces threading.Thread().start self._line.put self._line().put self._slow_line.put
    found.line flight.end load.end load.stop old.load.stop trip.load.stop staging.load.stop
    self._stager.stop self._stager.starting self._work.starting self._home.forget
    self._endpoints.told self._needs.of self._launches.folder
""")
NEVER_RETURN = _set("os.execv os.execve os._exit sys.exit")  # nobody can die after them
