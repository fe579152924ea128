"""Measurements that others disturb are taken again: the machine is shared.

Others are all processes but ours and those that we started, and what a hypervisor gave to other
machines meanwhile. Nothing is left out for being slow, only for having been disturbed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

QUIET_CORES = 0.05
"""In use by others: more counts as a disturbance."""
MAX_TRIES = 8
PAUSE_S = 0.5
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """The least disturbed of ``tries`` measurements, and the cores that others used during it."""

    value: float
    others_cores: float
    tries: int


def measure_quietly(measure: Callable[[], float], pids: Iterable[int]) -> Quiet:
    """``measure`` until others used less than QUIET_CORES meanwhile, MAX_TRIES times at most.

    ``pids`` are our processes besides this one.
    """
    ours = (os.getpid(), *pids)
    found: list[tuple[float, float]] = []
    for _ in range(MAX_TRIES):
        began_s, others = time.monotonic(), count_others_s(ours)
        value = measure()
        busy = (count_others_s(ours) - others) / (time.monotonic() - began_s)
        found.append((busy, value))
        if busy <= QUIET_CORES:
            break
        time.sleep(PAUSE_S)
    busy, value = min(found)
    return Quiet(value=value, others_cores=max(0.0, busy), tries=len(found))


def count_others_s(ours: Iterable[int]) -> float:
    """Processor seconds since the machine started that went neither to ``ours`` nor to nobody."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    own = 0
    for pid in ours:
        # After the name, which may hold anything, utime and stime are fields 14 and 15 of all.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own += int(fields[11]) + int(fields[12])
    return TICK_S * (user + nice + system + irq + softirq + steal - own)
