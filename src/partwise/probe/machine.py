"""This machine as the kernel describes it, and who else uses it."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from partwise.probe.limits import read_limits
from partwise.probe.others import count_others_s
from partwise.probe.points import Machine

LOOK_S = 0.5
"""How long others are watched before anything is measured."""
_CACHES = Path("/sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """What else this machine did just before it was measured: those of our processors in use
    (what a hypervisor gave to other machines counts), and the load average of the last minute."""

    busy_cores: float
    load_average_1_min: float


def describe_machine() -> Machine:
    """The processors and the memory that this process may use, and the last level of cache."""
    cpus, limits = os.sched_getaffinity(0), read_limits()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cores=min(len(cpus), limits.cores or len(cpus)),
        memory_bytes=min(memory_bytes, limits.memory_bytes or memory_bytes),
        cache_bytes=_sum_last_caches(_CACHES, cpus),
    )


def find_name() -> str:
    """What a cluster file may call this machine."""
    return platform.node().partition(".")[0] or "this-machine"


def watch_others() -> Others:
    """Look for LOOK_S at what is going on on our processors."""
    start_s, before_s = time.monotonic(), count_others_s(())
    time.sleep(LOOK_S)
    busy_s = count_others_s(()) - before_s
    return Others(
        busy_cores=busy_s / (time.monotonic() - start_s),
        load_average_1_min=os.getloadavg()[0],
    )


def _sum_last_caches(folder: Path, cpus: Collection[int]) -> int:
    """Bytes of the caches of the highest level that the processors ``cpus`` have, each counted
    once; 0 where nothing says so."""
    found: dict[tuple[int, str], int] = {}
    for index in (index for cpu in cpus for index in folder.glob(f"cpu{cpu}/cache/index*")):
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
