"""What the kernel says of a machine, and what it says of who else uses it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from partwise.probe import machine, others
from partwise.probe.limits import Limits, read_limits
from partwise.probe.machine import describe_machine, watch_others


def write_cache(folder: Path, cpu: int, level: int, size: str, shared: str) -> None:
    index = folder / f"cpu{cpu}" / "cache" / f"index{level}"
    index.mkdir(parents=True)
    for name, text in (("level", str(level)), ("size", size), ("shared_cpu_list", shared)):
        (index / name).write_text(text + "\n")


def write_stat(path: Path, *busy_ticks: int) -> None:
    """As /proc/stat: the busy ticks of each processor, spread over all that counts as busy."""
    rows = [[n - 5 * (n // 6), n // 6, n // 6, 0, 0, n // 6, n // 6, n // 6] for n in busy_ticks]
    total = [sum(column) for column in zip(*rows, strict=True)]
    named = {"cpu": total} | {f"cpu{i}": row for i, row in enumerate(rows)}
    lines = [f"{name} {' '.join(map(str, row))} 77 88" for name, row in named.items()]
    path.write_text("\n".join([*lines, "intr 1 2 3", "ctxt 99", ""]))


def test_the_last_level_is_added_up_over_those_who_do_not_share_it(tmp_path: Path) -> None:
    for cpu in range(4):
        write_cache(tmp_path, cpu, 2, "1024K", str(cpu))
        write_cache(tmp_path, cpu, 3, "32768K", "0-1" if cpu < 2 else "2-3")
    (tmp_path / "cpufreq").mkdir()
    assert machine._sum_last_caches(tmp_path, range(4)) == 64 << 20
    assert machine._sum_last_caches(tmp_path, [0, 1]) == 32 << 20
    assert machine._sum_last_caches(tmp_path, [3]) == 32 << 20
    assert machine._sum_last_caches(tmp_path / "nowhere", [0]) == 0


def test_this_machine_has_the_processors_that_we_may_use() -> None:
    described = describe_machine()
    assert described.cores == min(
        len(os.sched_getaffinity(0)), read_limits().cores or described.cores
    )
    assert described.memory_bytes > 1 << 28


def test_a_container_has_what_its_groups_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_limits(tmp_path) == Limits(memory_bytes=None, cores=None)
    groups = {
        "": ("max", "max 100000"),
        "pod": (str(3 << 30), "250000 100000"),
        "pod/job": (str(4 << 30), "max 100000"),
        "other": (str(1 << 20), "50000 100000"),
    }
    for name, (memory, cpu) in groups.items():
        folder = tmp_path / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(memory + "\n")
        (folder / "cpu.max").write_text(cpu + "\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/old\n0::/pod/job\n")
    limits = read_limits(tmp_path)
    assert limits == Limits(memory_bytes=3 << 30, cores=2)
    (tmp_path / "proc/self/cgroup").write_text("0::/other\n")
    assert read_limits(tmp_path) == Limits(memory_bytes=1 << 20, cores=1)
    # Where the process may use more than that, or less, the least counts.
    monkeypatch.setattr(machine, "read_limits", lambda: limits)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert (describe_machine().cores, describe_machine().memory_bytes <= 3 << 30) == (2, True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert describe_machine().cores == 1


@pytest.mark.parametrize(
    ("cpus", "busy_cores"), [({0}, 0.0), ({1}, 1.0), ({0, 1}, 1.0), ({1, 2}, 1.5)]
)
def test_only_who_uses_our_processors_is_seen(
    cpus: set[int], busy_cores: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, second = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    now_s = [100.0]

    def look(seconds: float) -> None:
        # Of four processors, one computes all the time, one half of it, one all of it.
        now_s[0] += 2.0
        write_stat(path, 1000, 500 + 2 * second, 700 + second, 2 * second)

    write_stat(path, 1000, 500, 700, 0)
    monkeypatch.setattr(others, "_PROC", tmp_path)
    monkeypatch.setattr(machine.time, "sleep", look)
    monkeypatch.setattr(machine.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)
    assert watch_others().busy_cores == pytest.approx(busy_cores)
