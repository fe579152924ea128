"""What the kernel says of a machine, and what it says of who else uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from partwise.probe import machine
from partwise.probe.machine import describe_machine, watch_others

SPIN = "while True: pass"


def write_cache(folder: Path, cpu: int, level: int, size: str, shared: str) -> None:
    index = folder / f"cpu{cpu}" / "cache" / f"index{level}"
    index.mkdir(parents=True)
    for name, text in (("level", str(level)), ("size", size), ("shared_cpu_list", shared)):
        (index / name).write_text(text + "\n")


def test_the_last_level_is_added_up_over_those_who_do_not_share_it(tmp_path: Path) -> None:
    for cpu in range(4):
        write_cache(tmp_path, cpu, 2, "1024K", str(cpu))
        write_cache(tmp_path, cpu, 3, "32768K", "0-1" if cpu < 2 else "2-3")
    (tmp_path / "cpufreq").mkdir()
    assert machine._sum_last_caches(tmp_path) == 64 << 20
    assert machine._sum_last_caches(tmp_path / "nowhere") == 0


def test_this_machine_has_the_processors_that_we_may_use() -> None:
    described = describe_machine()
    assert described.cores == len(os.sched_getaffinity(0))
    assert described.memory_bytes > 1 << 28


def test_a_process_that_computes_is_seen() -> None:
    other = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        assert watch_others().busy_cores > 0.5
    finally:
        other.kill()
        other.wait()
