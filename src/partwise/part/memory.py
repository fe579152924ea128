"""How much memory this process holds, and how much more it may take."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Resident memory of this process that is its own: without file-backed pages, which
    every server of a machine shares."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES


def available_bytes(root: Path = Path("/")) -> int:
    """What this process may still take without swapping: of the machine's memory, and of what the
    control groups (v2) leave that it is in. ``root`` is where the file system begins."""
    words = {line[0]: line[1:] for line in _split_lines(root / "proc/meminfo")}
    found = [int(words["MemAvailable:"][0]) << 10]
    for folder in list_groups(root):
        limit, current = read_words(folder / "memory.max"), read_words(folder / "memory.current")
        if limit and limit[0].isdecimal() and current:
            # Of what files were read for the least used goes without harm.
            kept = {line[0]: int(line[1]) for line in _split_lines(folder / "memory.stat")}
            found.append(int(limit[0]) - int(current[0]) + kept.get("inactive_file", 0))
    return max(0, min(found))


def list_groups(root: Path) -> list[Path]:
    """The folders of the process's control group and of those that it lies in."""
    mount = root / "sys/fs/cgroup"
    words = [line.partition("::") for line in _read_lines(root / "proc/self/cgroup")]
    own = next((Path(path.strip("/")) for number, _, path in words if number == "0"), Path())
    return [mount / folder for folder in (own, *own.parents)]


def read_words(path: Path) -> list[str]:
    """The words of a file of the kernel's; none where it is not there."""
    return [word for line in _split_lines(path) for word in line]


def _split_lines(path: Path) -> list[list[str]]:
    return [line.split() for line in _read_lines(path)]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # no such group, or another version
        return []
