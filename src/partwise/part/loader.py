"""A thread that loads weights beside the one that computes: to open a graph may take longer, in one
piece, than a step may.

It computes nothing, and what it makes is handed over whole.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Outcome = TypeVar("Outcome")


class Loader:
    """Runs one load after the other. The server's thread alone calls it."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None  # no thread before there is work for it

    def start(self, work: Callable[[], Outcome]) -> Future[Outcome]:
        """Begin ``work`` on the thread, when what was begun before is over."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="loader")
        return self._executor.submit(work)

    def close(self) -> None:
        """Begin nothing any more; what is under way ends by itself."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
