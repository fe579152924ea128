"""Processor time that went to nobody of ours: what disturbs a measurement."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def count_others_s(ours: Iterable[int]) -> float:
    """Processor seconds since the machine started that went neither to the processes ``ours``
    nor to nobody. What a hypervisor gave to other machines counts.

    A process that has ended counts as one of the others.
    """
    words = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    busy_ticks = user + nice + system + irq + softirq + steal
    return (busy_ticks - sum(map(_count_ticks, ours))) / os.sysconf("SC_CLK_TCK")


def _count_ticks(pid: int) -> int:
    """Clock ticks that a process has computed; 0 for one that is not there."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0
    # After the name, which may hold anything, utime and stime are fields 14 and 15 of all.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
