"""Moves bytes between local sockets and SSH channels, many at a time, in the one thread of the master's loop.

Each direction of each stream holds one piece at most. A client that does not read leaves its channel's window closed,
a command that does not read leaves its client's socket full: so who is slow makes nobody else wait, and no memory
fills. Ends are passed on by halves.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable

import paramiko

PIECE = 32 << 10  # bytes; a channel's largest packet
TURN = 8  # pieces of one stream before it is the others' turn
BROKEN = (OSError, EOFError, paramiko.SSHException)  # what a call on a channel raises whose connection is gone
FAREWELL = 5.0  # seconds in which what a client wrote before it closed has to have room


class Stream:
    """One client's socket and its channel."""

    def __init__(self, client: socket.socket, channel: paramiko.Channel, outward: bytes) -> None:
        """``outward``: what the client has written already."""
        self.client = client
        self.channel = channel
        self.outward = outward  # to the channel
        self.inward = memoryview(b"")  # to the client
        self.client_ended = False  # it writes no more
        self.channel_ended = False  # the command writes no more
        self.hung_up: float | None = None  # time.monotonic() at which the client closed
        self.mask = 0
        self.rung = False
        self.pause = 0.0  # seconds until the channel is tried again
        self.due = 0.0


class Bell:
    """What a channel's buffer sets when there is something to read; called in the transport's thread."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.set = ring

    def clear(self) -> None:
        """Nothing to do: the loop reads until there is nothing."""


def hang_up(channel: paramiko.Channel) -> None:
    """Close a channel, whatever its connection is like.

    None is left to the garbage collector: paramiko's finalizer sends, in whatever thread, under whatever lock.
    """
    with contextlib.suppress(*BROKEN):
        channel.close()


class Relay:
    """All streams of one connection; everything here is called by the loop's thread."""

    def __init__(self, epoll: select.epoll, wake: Callable[[], None]) -> None:
        """``wake`` makes the loop call `turn`, from any thread."""
        self._epoll = epoll
        self._wake = wake
        self._streams: dict[int, Stream] = {}  # by the client's descriptor
        self._rung: deque[Stream] = deque()
        self._stalled: dict[Stream, Callable[[], bool]] = {}
        self._writable: dict[Stream, Callable[[], bool]] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(
        self, client: socket.socket, channel: paramiko.Channel, outward: bytes, writable: Callable[[], bool]
    ) -> None:
        """Take over both; ``writable`` tells whether the connection takes more without waiting."""
        channel.settimeout(0.0)
        stream = Stream(client, channel, outward)
        self._streams[client.fileno()] = stream
        self._writable[stream] = writable

        def ring() -> None:
            if not stream.rung:
                stream.rung = True
                self._rung.append(stream)
                self._wake()

        self._arm(stream)
        channel.in_buffer.set_event(Bell(ring))  # type: ignore[arg-type]  # the two methods of an event that it calls
        if outward:
            self._outward(stream)

    def event(self, fd: int, events: int) -> bool:
        """Deal with a client's readiness; False: not one of ours."""
        stream = self._streams.get(fd)
        if stream is None:
            return False
        if events & (select.EPOLLHUP | select.EPOLLERR):
            stream.hung_up = time.monotonic()
            stream.inward = memoryview(b"")
            self._arm(stream)
            self._outward(stream)
        else:
            if events & select.EPOLLOUT:
                self._inward(stream)
            if events & select.EPOLLIN:
                self._outward(stream)
        return True

    def turn(self) -> float | None:
        """Move what the channels have; return the seconds until the next call is due, None: when something happens."""
        for _ in range(len(self._rung)):
            stream = self._rung.popleft()
            stream.rung = False  # before the read: what comes during it rings again
            self._inward(stream)
        now = time.monotonic()
        for stream in [it for it in self._stalled if it.due <= now]:
            self._outward(stream)
        if self._rung:
            return 0.0
        return min((max(0.0, it.due - now) for it in self._stalled), default=None)

    def close(self) -> None:
        """End all streams: the connection is gone, or we leave."""
        for stream in list(self._streams.values()):
            self._finish(stream)

    def _inward(self, stream: Stream) -> None:
        """Channel to client."""
        if stream.client.fileno() < 0:
            return
        for _ in range(TURN):
            if stream.inward:
                try:
                    stream.inward = stream.inward[stream.client.send(stream.inward) :]
                except BlockingIOError:
                    break
                except OSError:  # the client closed; what it wrote before still goes out
                    stream.hung_up = stream.hung_up or time.monotonic()
                    stream.inward = memoryview(b"")
                    self._outward(stream)
                    return
                continue
            try:
                data = stream.channel.recv(2 * PIECE)
            except TimeoutError:  # nothing there
                break
            except BROKEN:  # a read also tells the host that there is room again, which may fail
                self._finish(stream)
                return
            if not data:
                self._channel_end(stream)
                return
            if stream.hung_up is None:
                stream.inward = memoryview(data)
        else:
            stream.rung = True
            self._rung.append(stream)
        self._arm(stream)

    def _channel_end(self, stream: Stream) -> None:
        if stream.channel.closed or stream.hung_up is not None:
            self._finish(stream)
        elif not stream.channel_ended:
            stream.channel_ended = True
            with contextlib.suppress(OSError):
                stream.client.shutdown(socket.SHUT_WR)
            self._arm(stream)

    def _outward(self, stream: Stream) -> None:
        """Client to channel."""
        self._stalled.pop(stream, None)
        for _ in range(TURN):
            if not stream.outward and not stream.client_ended:
                try:
                    stream.outward = stream.client.recv(PIECE)
                except BlockingIOError:
                    break
                except OSError:
                    stream.outward = b""
                stream.client_ended = not stream.outward
            if not stream.outward:
                self._client_end(stream)
                return
            try:
                sent = stream.channel.send(stream.outward) if self._writable[stream]() else 0
            except TimeoutError:  # its window is closed
                sent = 0
            except BROKEN:  # the channel is closed: its bell has told so
                stream.outward, stream.client_ended = b"", True
                break
            stream.outward = stream.outward[sent:]
            if not sent:
                self._stall(stream)
                break
            stream.pause = 0.0
        else:
            stream.due = 0.0
            self._stalled[stream] = self._writable[stream]  # more to come, after the others
        self._arm(stream)

    def _stall(self, stream: Stream) -> None:
        """Nobody tells when there is room again: look, at first often."""
        now = time.monotonic()
        if stream.hung_up is not None and now - stream.hung_up > FAREWELL:
            self._finish(stream)
            return
        stream.pause = min(0.05, stream.pause * 1.5 + 0.001)
        stream.due = now + stream.pause
        self._stalled[stream] = self._writable[stream]

    def _client_end(self, stream: Stream) -> None:
        if stream.hung_up is not None:
            self._finish(stream)
            return
        with contextlib.suppress(*BROKEN):
            stream.channel.shutdown_write()
        self._arm(stream)

    def _arm(self, stream: Stream) -> None:
        """Ask the kernel for what can be used now; never for a hang-up that is known, which it would repeat."""
        fd = stream.client.fileno()
        if fd < 0:
            return
        if stream.hung_up is not None:
            mask = -1
        else:
            mask = select.EPOLLOUT if stream.inward else 0
            if not stream.outward and not stream.client_ended and stream not in self._stalled:
                mask |= select.EPOLLIN
        mask |= 1 << 31 if mask == 0 else 0  # registered for a hang-up only
        if mask == stream.mask:
            return
        if mask == -1:
            if stream.mask:
                self._epoll.unregister(fd)
        elif stream.mask in (0, -1):
            self._epoll.register(fd, mask & 0x7FFFFFFF)
        else:
            self._epoll.modify(fd, mask & 0x7FFFFFFF)
        stream.mask = mask

    def _finish(self, stream: Stream) -> None:
        """Close both; what the client wrote and nobody read is thrown away, so that it sees an end, not a reset."""
        fd = stream.client.fileno()
        if fd < 0:
            return
        if stream.mask not in (0, -1):
            self._epoll.unregister(fd)
        del self._streams[fd]
        self._stalled.pop(stream, None)
        self._writable.pop(stream, None)
        with contextlib.suppress(OSError):
            stream.client.shutdown(socket.SHUT_RDWR)
            while stream.client.recv(1 << 16):
                pass
        stream.client.close()
        hang_up(stream.channel)
