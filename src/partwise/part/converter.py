"""A thread that packs and unpacks tensors beside the one that computes.

Numpy lets go of the interpreter while it works, and so do runners: on a core that is free
this costs the computing thread nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from partwise.remote.poller import Poller

BESIDE_BYTES = 128 << 10
"""From so many bytes of float32 on a tensor goes to the thread: handing it over and back takes 20
to 90 us, and packing it a few hundred between two passes (docs/decisions/0041)."""

Outcome = TypeVar("Outcome")


class Converter:
    """Runs work in the order in which it is given. The server's thread alone calls it."""

    def __init__(self, poller: Poller) -> None:
        self._executor: ThreadPoolExecutor | None = None  # no thread before there is work for it
        self._waiting: deque[tuple[Future[None], Callable[[], None]]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poller.add(self._event, self._finish)

    def start(self, work: Callable[[], Outcome]) -> Future[Outcome]:
        """Begin ``work`` on the thread, after what was given before."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="converter")
        return self._executor.submit(work)

    def start_then(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Begin ``work``; the server's thread calls ``then`` after it, in a turn of its poller."""
        future = self.start(work)
        self._waiting.append((future, then))
        future.add_done_callback(lambda _: os.eventfd_write(self._event, 1))

    def _finish(self) -> None:
        os.eventfd_read(self._event)
        while self._waiting and self._waiting[0][0].done():
            _, then = self._waiting.popleft()
            then()

    def forget(self) -> None:
        """Call nothing any more for what was begun, and wait until the thread is idle."""
        self._waiting.clear()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def close(self) -> None:
        """`forget`, for good."""
        self.forget()
        os.close(self._event)
