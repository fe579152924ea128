"""Processor time that went to nobody of ours: what disturbs a measurement."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

_PROC = Path("/proc")


def count_others_s(ours: Iterable[int]) -> float:
    """Seconds since the machine started for which one of our processors worked neither for the
    processes ``ours`` nor for nobody. What a hypervisor gave to other machines counts.

    A process that has ended counts as one of the others.
    """
    busy_ticks = _count_busy(os.sched_getaffinity(0))
    return (busy_ticks - sum(map(_count_own, ours))) / os.sysconf("SC_CLK_TCK")


def _count_busy(cpus: Collection[int]) -> int:
    """Clock ticks for which the processors ``cpus`` were not idle, ours and stolen ones."""
    names, ticks = {f"cpu{cpu}" for cpu in cpus}, 0
    for line in (_PROC / "stat").read_text().splitlines():
        name, *words = line.split()
        if name in names:
            user, nice, system, _, _, irq, softirq, steal = map(int, words[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks


def _count_own(pid: int) -> int:
    """Clock ticks that a process has computed; 0 for one that is not there."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0
    # After the name, which may hold anything, utime and stime are fields 14 and 15 of all.
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
