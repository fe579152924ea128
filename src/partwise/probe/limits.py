"""What a control group (v2) lets this process use of the machine: containers have less of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from partwise.part.memory import list_groups, read_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The least of all groups that the process is in; None: not limited."""

    memory_bytes: int | None
    cores: int | None


def read_limits(root: Path = Path("/")) -> Limits:
    """The limits of this process's groups; ``root`` is where the file system begins."""
    memory: list[int] = []
    cores: list[int] = []
    for folder in list_groups(root):
        limit = read_words(folder / "memory.max")
        if limit and limit[0].isdecimal():
            memory.append(int(limit[0]))
        quota = read_words(folder / "cpu.max")  # microseconds of computing, of each period
        if len(quota) == 2 and all(word.isdecimal() for word in quota) and int(quota[1]):
            cores.append(max(1, int(quota[0]) // int(quota[1])))
    return Limits(memory_bytes=min(memory, default=None), cores=min(cores, default=None))
