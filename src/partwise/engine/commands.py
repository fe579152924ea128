"""What other threads ask of the engine's thread."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from partwise.errors import Overloaded
from partwise.remote.poller import Poller

MAX_COMMANDS = 1 << 14
"""Those that may wait for the engine: each request has two, to start and to cancel it."""

Command = Callable[[], None]


class Commands:
    """Commands in order, called by the thread that polls ``poller``, which they wake. All but that
    may be called from any thread."""

    def __init__(self, poller: Poller) -> None:
        self._queue: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the wake-up descriptor
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poller.add(self._event, self._run)

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, command: Command) -> None:
        """Have ``command`` called, unless this is closed.

        Raises:
            Overloaded: too many wait.
        """
        with self._lock:
            if self._event < 0:
                return
            if len(self) >= MAX_COMMANDS:
                raise Overloaded(
                    f"{len(self)} commands wait for the engine, the limit: try again when it took"
                    " some"
                )
            self._queue.put(command)
            os.eventfd_write(self._event, 1)

    def wake(self) -> None:
        """Let the thread look around."""
        with self._lock:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Take no more; nobody polls any more."""
        with self._lock:
            event, self._event = self._event, -1
        os.close(event)

    def _run(self) -> None:
        os.eventfd_read(self._event)
        while not self._queue.empty():
            self._queue.get()()
