"""Measurements that others disturb are taken again: the machine is shared.

Others are all processes but ours and those that we started, and what a hypervisor gave to other
machines meanwhile. Nothing is left out for being slow, only for having been disturbed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from partwise.probe.others import count_others_s

QUIET_CORES = 0.05
"""In use by others: more counts as a disturbance."""
MAX_TRIES = 8
PAUSE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """The least disturbed of ``tries`` measurements, and the cores that others used during it."""

    value: float
    others_cores: float
    tries: int


def measure_quietly(
    measure: Callable[[], float], pids: Iterable[int], max_tries: int = MAX_TRIES
) -> Quiet:
    """``measure`` until others used less than QUIET_CORES meanwhile, ``max_tries`` times at most.

    ``pids`` are our processes besides this one.
    """
    ours = (os.getpid(), *pids)
    found: list[tuple[float, float]] = []
    for _ in range(max_tries):
        began_s, others = time.monotonic(), count_others_s(ours)
        value = measure()
        busy = (count_others_s(ours) - others) / (time.monotonic() - began_s)
        found.append((busy, value))
        if busy <= QUIET_CORES:
            break
        time.sleep(PAUSE_S)
    busy, value = min(found)
    return Quiet(value=value, others_cores=max(0.0, busy), tries=len(found))
