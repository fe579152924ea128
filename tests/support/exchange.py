"""An exchange among members that are threads of one process, for tests of runners."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")
WAIT_S = 60.0


class ThreadExchange:
    """One member's side; see `join_threads`. ``calls`` lists what was called, in order."""

    def __init__(self, index: int, num_members: int, room: _Room) -> None:
        self.index = index
        self.num_members = num_members
        self.calls: list[str] = []
        self._room = room

    def sum(self, partial: Any) -> Any:
        assert partial.dtype == np.float32
        assert partial.flags.c_contiguous
        self.calls.append(f"sum {partial.shape}")
        given = self._room.swap(self.index, partial.copy())
        total = given[0].copy()
        for other in given[1:]:
            total += other
        return total

    def gather(self, own: Any) -> Sequence[Any]:
        self.calls.append(f"gather {own.dtype}")
        return self._room.swap(self.index, own.copy())


class _Room:
    def __init__(self, num_members: int) -> None:
        self._given: list[Any] = [None] * num_members
        self._barrier = threading.Barrier(num_members, timeout=WAIT_S)

    def swap(self, index: int, own: Any) -> list[Any]:
        self._given[index] = own
        self._barrier.wait()
        found = list(self._given)
        self._barrier.wait()
        return found


def join_threads(num_members: int) -> list[ThreadExchange]:
    """An exchange for each of ``num_members``."""
    room = _Room(num_members)
    return [ThreadExchange(index, num_members, room) for index in range(num_members)]


def run_members(run: Callable[[int], Result], num_members: int) -> list[Result]:
    """What ``run`` returns for each member, all of them at once."""
    with ThreadPoolExecutor(num_members) as pool:
        return list(pool.map(run, range(num_members)))
