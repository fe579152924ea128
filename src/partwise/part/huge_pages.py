"""This process's memory on huge pages: weights are read from end to end in every pass, and that
takes a tenth longer where each 4 KiB of them are a page of their own (docs/decisions/0060).

Only memory that is all in use is moved, so that none is added; memory of files stays as it is.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

HUGE_BYTES = 2 << 20
LARGE_BYTES = 64 << 20
"""What is moved between two calls of ``attend``, 20 ms of copying; smaller weights are read so
fast that nobody has to hear of their pages."""

_MADV_COLLAPSE = 25
"""Linux 6.1; Python has no name for it."""


def use_huge_pages(attend: Callable[[], None]) -> int:
    """Move what this process holds; returns how many bytes lie on huge pages now. ``attend`` is
    called in between and may raise to abandon it."""
    libc = ctypes.CDLL(None)
    moved_bytes = 0
    for number, address in enumerate(_list_candidates()):
        if number % (LARGE_BYTES // HUGE_BYTES) == 0:
            attend()
        place = ctypes.c_void_p(address), ctypes.c_size_t(HUGE_BYTES)
        if _is_resident(libc, place) and libc.madvise(*place, _MADV_COLLAPSE) == 0:
            moved_bytes += HUGE_BYTES
    return moved_bytes


def explain_small_pages(weight_bytes: int, moved_bytes: int) -> str | None:
    """What to tell people of weights that are not on huge pages, for the most part; None: they
    are."""
    if weight_bytes < LARGE_BYTES or moved_bytes >= weight_bytes / 2:
        return None
    return (
        f"{moved_bytes >> 20} of {weight_bytes >> 20} MiB of weights lie on huge pages, the rest"
        " takes a tenth longer to read: that needs Linux 6.1 and memory in pieces of 2 MiB"
    )


def _list_candidates() -> Iterator[int]:
    """Where a huge page may begin in writable memory that belongs to no file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, _, _, inode, *name = line.split(maxsplit=5)
        if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        start, stop = (int(address, 16) for address in span.split("-"))
        yield from range(-(-start // HUGE_BYTES) * HUGE_BYTES, stop - HUGE_BYTES + 1, HUGE_BYTES)


def _is_resident(libc: ctypes.CDLL, place: tuple[ctypes.c_void_p, ctypes.c_size_t]) -> bool:
    """Whether each page of a place is in memory."""
    pages = (ctypes.c_ubyte * (HUGE_BYTES // mmap.PAGESIZE))()
    return libc.mincore(*place, pages) == 0 and all(page & 1 for page in pages)
