"""Measurements that others disturb are taken again: the machine is shared.

Others are all processes but ours and those that we started, what a hypervisor gave to other
machines meanwhile, and neighbours that slow a processor down (`processors.py`). Nothing is left out
for being slow, only for having been disturbed.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from partwise.probe.others import count_others_s
from processors import count_missing

QUIET_CORES = 0.05
"""In use by others: more counts as a disturbance."""
QUIET_MISSING = 0.15
"""Beside the fastest one, before and after: more counts too. A calm machine's two differ by up to
0.1 from one probe to the next."""
MAX_TRIES = 8
PAUSE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """The least disturbed of ``tries`` measurements, and the cores that others used during it."""

    value: float
    others_cores: float
    tries: int


@dataclass(slots=True)
class Patience:
    """How long a process waits for others to leave and measures again, in all: they may stay for
    hours, and what is then measured is told with them."""

    left_s: float = 120.0

    def wait(self) -> float:
        """Processors that are missing now, once it was waited for them."""
        while (missing := count_missing()) > QUIET_MISSING and self.left_s > 0:
            self.pause(PAUSE_S)
        return missing

    def pause(self, spent_s: float) -> None:
        """``spent_s`` were spent in vain, or are from now on."""
        time.sleep(PAUSE_S)
        self.left_s -= spent_s


@functools.cache
def _of_this_process() -> Patience:
    return Patience()


def measure_quietly(
    measure: Callable[[], float],
    pids: Iterable[int],
    max_tries: int = MAX_TRIES,
    patience: Patience | None = None,
) -> Quiet:
    """``measure`` until others took nothing to speak of meanwhile, ``max_tries`` times at most, and
    once where ``patience`` is at its end.

    ``pids`` are our processes besides this one.
    """
    patience = patience or _of_this_process()
    ours = (os.getpid(), *pids)
    found: list[tuple[float, float]] = []
    for _ in range(max_tries):
        missing = patience.wait()
        began_s, others = time.monotonic(), count_others_s(ours)
        value = measure()
        took_s = time.monotonic() - began_s
        busy = (count_others_s(ours) - others) / took_s
        missing = max(missing, count_missing())
        is_even = missing <= QUIET_MISSING
        # What a probe differs by from another is no disturbance.
        found.append((busy + (0.0 if is_even else missing), value))
        if (busy <= QUIET_CORES and is_even) or patience.left_s <= 0:
            break
        patience.pause(took_s + PAUSE_S)
    busy, value = min(found)
    return Quiet(value=value, others_cores=max(0.0, busy), tries=len(found))
