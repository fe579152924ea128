"""Byte streams under a link: TCP sockets, and pairs of buffers in one process.

A channel never blocks: it takes or gives what it can. A TLS channel has the same methods
and a binding that ties authentication to it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Sequence
from typing import Protocol

from partwise.errors import LinkClosed

KEEP_ALIVE_S = 45


class Channel(Protocol):
    """A non-blocking, ordered, reliable stream of bytes."""

    @property
    def polls_writable(self) -> bool:
        """Whether the descriptor polls writable when `send` may take bytes; if not, it polls
        readable then."""
        ...

    def fileno(self) -> int:
        """A descriptor that polls readable when `receive_into` may give bytes."""
        ...

    def send(self, buffers: Sequence[memoryview]) -> int:
        """Take bytes from the front of ``buffers``; returns how many, 0 when full."""
        ...

    def receive_into(self, view: memoryview) -> int:
        """Fill the front of ``view``; returns how many bytes, 0 when there are none now.

        Raises:
            LinkClosed: the other side closed.
        """
        ...

    def close(self) -> None: ...


class TcpChannel:
    """A connected TCP socket."""

    polls_writable = True

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A host that vanished without a word: an idle link ends after KEEP_ALIVE_S.
        # So does one with data under way, for which no keep-alive is sent.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, KEEP_ALIVE_S * 1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_S // 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_S // 9)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
        self._socket = sock
        self._send = sock.sendmsg
        self._receive = sock.recv_into

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, buffers: Sequence[memoryview]) -> int:
        try:
            return self._send(buffers)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise LinkClosed(f"the other side closed the connection: {exc.strerror}") from exc

    def receive_into(self, view: memoryview) -> int:
        try:
            count = self._receive(view)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise LinkClosed(f"the other side closed the connection: {exc.strerror}") from exc
        if count == 0:
            raise LinkClosed("the other side closed the connection")
        return count

    def close(self) -> None:
        self._socket.close()


class _Pipe:
    """Bytes under way in one direction, at most ``capacity``."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.is_closed = False


class MemoryChannel:
    """One end of an in-process pair, for parts that run as threads.

    With ``seed`` set, every send and receive moves a random part of what it could: all the
    ways in which a network may cut a stream, repeatably.
    """

    polls_writable = False

    def __init__(
        self, incoming: _Pipe, outgoing: _Pipe, lock: threading.Lock, seed: int | None
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = lock
        self._random = random.Random(seed) if seed is not None else None
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._peer: MemoryChannel | None = None

    @classmethod
    def pair(
        cls, *, capacity: int = 1 << 20, seed: int | None = None
    ) -> tuple[MemoryChannel, MemoryChannel]:
        """Two connected ends, each direction holding at most ``capacity`` bytes."""
        one, two, lock = _Pipe(capacity), _Pipe(capacity), threading.Lock()
        left = cls(one, two, lock, seed)
        right = cls(two, one, lock, None if seed is None else seed + 1)
        left._peer, right._peer = right, left
        return left, right

    def fileno(self) -> int:
        return self._event

    def _portion(self, count: int) -> int:
        return self._random.randint(0, count) if self._random and count else count

    def _wake(self, end: MemoryChannel | None) -> None:
        if end is not None and end._event >= 0:
            os.eventfd_write(end._event, 1)

    def send(self, buffers: Sequence[memoryview]) -> int:
        with self._lock:
            if self._outgoing.is_closed or self._incoming.is_closed:
                raise LinkClosed("the other side closed the channel")
            room = self._portion(self._outgoing.capacity - len(self._outgoing.data))
            taken = 0
            for buffer in buffers:
                piece = buffer[: room - taken]
                self._outgoing.data += piece
                taken += len(piece)
            if taken:
                self._wake(self._peer)
            if taken < room or self._random:  # there is room: nobody else would wake the sender
                self._wake(self)
            return taken

    def receive_into(self, view: memoryview) -> int:
        with self._lock:
            data = self._incoming.data
            if not data and self._incoming.is_closed:
                raise LinkClosed("the other side closed the channel")
            count = self._portion(min(len(view), len(data)))
            view[:count] = data[:count]
            del data[:count]
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event)
            if data or self._incoming.is_closed:
                self._wake(self)
            if count:
                self._wake(self._peer)
            return count

    def close(self) -> None:
        with self._lock:
            self._outgoing.is_closed = self._incoming.is_closed = True
            self._wake(self._peer)
            if self._event >= 0:
                os.close(self._event)
                self._event = -1
