"""How fast each processor of this machine is right now.

Processors of a virtual machine are threads of real ones, which neighbours may use as well: then one
of ours computes at half its speed for minutes, of which nothing here is counted as busy or stolen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

_LOOPS, _PROBES = 20_000, 8
"""About a millisecond each, of which the shortest is one that nobody of ours interrupted."""


def count_missing() -> float:
    """Of the processors that this process may use, as a number of them, beside the fastest one: 0.5
    where one of two is half as fast as the other. All of one speed are none, whatever it is."""
    seconds = probe(os.sched_getaffinity(0)).values()
    return sum(1 - min(seconds) / found_s for found_s in seconds)


def probe(processors: Collection[int]) -> Mapping[int, float]:
    """Seconds that each of ``processors`` takes for the same work."""
    found: dict[int, float] = {}

    def run() -> None:  # a thread has processors of its own, and nothing to give back
        for processor in processors:
            os.sched_setaffinity(0, {processor})
            found[processor] = min(_spin() for _ in range(_PROBES))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


def _spin() -> float:
    start_s = time.perf_counter()
    total = 0
    for number in range(_LOOPS):
        total += number
    return time.perf_counter() - start_s


def place(pids: Iterable[int], processors: Collection[int]) -> None:
    """From now on all threads of our processes ``pids`` run on ``processors`` alone."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), processors)
