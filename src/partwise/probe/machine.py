"""This machine as the kernel describes it, and who else uses it."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from partwise.probe.points import Machine

LOOK_S = 0.5
"""How long others are watched before anything is measured."""
_CACHES = Path("/sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """What else this machine did just before it was measured: processors in use (what a
    hypervisor gave to other machines counts), and the load average of the last minute."""

    busy_cores: float
    load_average_1_min: float


def describe_machine() -> Machine:
    """The processors this process may use, the memory, and the last level of cache."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cache_bytes=_sum_last_caches(_CACHES),
    )


def find_name() -> str:
    """What a cluster file may call this machine."""
    return platform.node().partition(".")[0] or "this-machine"


def watch_others() -> Others:
    """Look for LOOK_S at what is going on."""
    start_s, before = time.monotonic(), _read_busy_ticks()
    time.sleep(LOOK_S)
    ticks = _read_busy_ticks() - before
    elapsed_s = time.monotonic() - start_s
    return Others(
        busy_cores=ticks / os.sysconf("SC_CLK_TCK") / elapsed_s,
        load_average_1_min=os.getloadavg()[0],
    )


def _read_busy_ticks() -> int:
    """Clock ticks for which any processor was not idle, ours and stolen ones."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu "):
            user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
            return user + nice + system + irq + softirq + steal
    return 0


def _sum_last_caches(folder: Path) -> int:
    """Bytes of the caches of the highest level, each counted once; 0 where nothing says so."""
    found: dict[tuple[int, str], int] = {}
    for index in folder.glob("cpu[0-9]*/cache/index*"):
        words = _read_words(index, ("level", "size", "shared_cpu_list"))
        size = re.fullmatch(r"(\d+)([KMG])", words[1]) if words else None
        if words and size:
            found[int(words[0]), words[2]] = int(size[1]) * _UNITS[size[2]]
    last = max((level for level, _ in found), default=0)
    return sum(num_bytes for (level, _), num_bytes in found.items() if level == last)


def _read_words(folder: Path, names: Sequence[str]) -> list[str] | None:
    try:
        return [(folder / name).read_text().strip() for name in names]
    except OSError:
        return None
