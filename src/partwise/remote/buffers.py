"""Reusable receive buffers, aligned for computing in place."""

from __future__ import annotations

import numpy as np

from partwise.remote.layout import ALIGNMENT

MAX_KEPT_BYTES = 128 << 20


class BufferPool:
    """Aligned buffers by size class; keeps at most MAX_KEPT_BYTES of unused ones."""

    def __init__(self) -> None:
        self._free: dict[int, list[memoryview]] = {}
        self._kept_bytes = 0

    def take(self, num_bytes: int) -> memoryview:
        """A writable buffer of at least ``num_bytes`` whose base is 64-byte aligned."""
        size = _size_class(num_bytes)
        free = self._free.get(size)
        if free:
            self._kept_bytes -= size
            return free.pop()
        raw = np.empty(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + size].data

    def give(self, buffer: memoryview) -> None:
        """Take a buffer of `take` back."""
        size = len(buffer)
        if self._kept_bytes + size > MAX_KEPT_BYTES:
            return
        self._kept_bytes += size
        self._free.setdefault(size, []).append(buffer)


def _size_class(num_bytes: int) -> int:
    return max(4096, 1 << (num_bytes - 1).bit_length())
