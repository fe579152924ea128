"""What a process may still take, as the kernel says it."""

from __future__ import annotations

from pathlib import Path

from partwise.part.memory import available_bytes

MIB = 1 << 20


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_least_of_the_machine_and_of_all_groups_is_available(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", f"MemTotal: {99 << 10} kB\nMemAvailable: {50 << 10} kB\n")
    assert available_bytes(tmp_path) == 50 * MIB
    write(tmp_path / "proc/self/cgroup", "0::/pod/job\n")
    groups = tmp_path / "sys/fs/cgroup"
    write(groups / "memory.max", "max\n")
    write(groups / "pod/memory.max", f"{60 * MIB}\n")
    write(groups / "pod/memory.current", f"{30 * MIB}\n")
    write(groups / "pod/memory.stat", f"anon 5\ninactive_file {4 * MIB}\n")
    assert available_bytes(tmp_path) == 34 * MIB, "what files were read for can go"
    write(groups / "pod/job/memory.max", f"{10 * MIB}\n")
    write(groups / "pod/job/memory.current", f"{11 * MIB}\n")
    assert available_bytes(tmp_path) == 0


def test_this_process_may_take_something() -> None:
    assert available_bytes() > MIB
