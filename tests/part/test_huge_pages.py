"""Memory that is in use moves to huge pages as it is; none is added."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import numpy as np
import pytest

from partwise.part.huge_pages import (
    HUGE_BYTES,
    LARGE_BYTES,
    explain_small_pages,
    use_huge_pages,
)
from partwise.part.memory import resident_bytes

NUM_BYTES = 16 * HUGE_BYTES


@pytest.fixture
def mapped() -> np.ndarray:
    """Memory of its own, of which nothing was touched."""
    return np.frombuffer(mmap.mmap(-1, NUM_BYTES, flags=mmap.MAP_PRIVATE), np.uint8)


def huge_bytes_of(array: np.ndarray) -> int:
    """Of ``array``, on huge pages; neighbours that the kernel maps with it count."""
    address, found = array.ctypes.data, 0
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *words = line.split()
        if "-" in name and not name.endswith(":"):
            start, stop = (int(part, 16) for part in name.split("-"))
            is_inside = start < address + array.nbytes and address < stop
        elif is_inside and name == "AnonHugePages:":
            found += int(words[0]) << 10
    return found


def test_what_is_in_use_moves_with_its_contents(mapped: np.ndarray) -> None:
    mapped[:] = np.arange(NUM_BYTES, dtype=np.uint8)
    before = huge_bytes_of(mapped)
    moved_bytes = use_huge_pages(lambda: None)
    if moved_bytes == 0:
        pytest.skip("this kernel cannot, or has no memory in pieces of 2 MiB")
    assert moved_bytes >= NUM_BYTES - 2 * HUGE_BYTES
    assert huge_bytes_of(mapped) - before >= NUM_BYTES - 2 * HUGE_BYTES
    assert (mapped == np.arange(NUM_BYTES, dtype=np.uint8)).all()


def test_what_is_not_in_use_takes_no_memory_afterwards(mapped: np.ndarray) -> None:
    mapped[:: 2 * mmap.PAGESIZE] = 1  # every other page
    before = resident_bytes()
    use_huge_pages(lambda: None)
    assert resident_bytes() - before < HUGE_BYTES


def test_it_can_be_abandoned() -> None:
    def attend() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        use_huge_pages(attend)


def test_a_kernel_that_cannot_is_told_of_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        @staticmethod
        def mincore(address: object, size: object, pages: ctypes.Array[ctypes.c_ubyte]) -> int:
            pages[:] = [1] * len(pages)
            return 0

        @staticmethod
        def madvise(*_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Old)
    assert use_huge_pages(lambda: None) == 0
    note = explain_small_pages(3 * LARGE_BYTES, 0)
    assert note is not None
    assert note.startswith("0 of 192 MiB of weights lie on huge pages")
    assert "Linux 6.1" in note
    assert explain_small_pages(LARGE_BYTES - 1, 0) is None
    assert explain_small_pages(3 * LARGE_BYTES, 2 * LARGE_BYTES) is None
