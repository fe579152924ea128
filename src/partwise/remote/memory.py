"""Joins threads of one process, with the schedules of a bad network if asked.

For tests: channels are `MemoryChannel` pairs; there is nobody to authenticate.
"""

from __future__ import annotations

import os
import queue
import threading

from partwise.errors import LaunchError, LinkClosed
from partwise.remote.authenticate import Hello
from partwise.remote.channel import Channel, MemoryChannel
from partwise.remote.transport import CONNECT_S, Address

CAPACITY_BYTES = 1 << 20


class MemoryListener:
    """Receives the ends of the pairs that `MemoryTransport.connect` makes."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._accepted: queue.SimpleQueue[tuple[Hello, Channel]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._event

    def put(self, hello: Hello, channel: Channel) -> None:
        """Hand over a new client."""
        self._accepted.put((hello, channel))
        os.eventfd_write(self._event, 1)

    def accepted(self) -> list[tuple[Hello, Channel]]:
        """See `Listener.accepted`."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        clients = []
        while not self._accepted.empty():
            clients.append(self._accepted.get())
        return clients

    def close(self) -> None:
        os.close(self._event)


class MemoryTransport:
    """A network inside the process. ``seed`` makes every channel cut its stream at random."""

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._listeners: dict[Address, MemoryListener] = {}
        self._lock = threading.Lock()
        self._num_channels = 0

    def listen(self, address: Address, server: str) -> MemoryListener:
        """See `Transport.listen`."""
        with self._lock:
            if address.port == 0:
                address = Address(address.host, 1 + len(self._listeners))
            if address in self._listeners:
                raise LaunchError(f"{address} is in use: choose another port")
            self._listeners[address] = MemoryListener(address)
            return self._listeners[address]

    def connect(
        self, address: Address, hello: Hello, *, deadline_s: float = CONNECT_S
    ) -> MemoryChannel:
        """See `Transport.connect`."""
        with self._lock:
            listener = self._listeners.get(address)
            if listener is None:
                raise LinkClosed(f"nobody listens at {address}")
            self._num_channels += 2
            seed = None if self._seed is None else self._seed + self._num_channels
            ours, theirs = MemoryChannel.pair(capacity=CAPACITY_BYTES, seed=seed)
            listener.put(hello, theirs)
            return ours
