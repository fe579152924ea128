"""How fast a folder's disk reads what no memory holds: what loading weights can hope for."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from partwise.errors import ProbeError
from partwise.probe.spread import Spread, spread

FILE_BYTES, BLOCK_BYTES = 128 << 20, 16 << 20
LIMIT_S = 3.0
"""Blocks are read until then; a disk that is slower than one block in it is too slow."""


def measure_store(folder: Path) -> Spread:
    """Bytes per second of reading a file in blocks, each after its pages were dropped.

    Writes a file of FILE_BYTES to ``folder`` for that, and removes it.

    Raises:
        ProbeError: the folder cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".partwise-probe-") as file:
            num_blocks = _fill(file.fileno())
            return spread(_read_blocks(file.fileno(), num_blocks))
    except OSError as exc:
        raise ProbeError(
            f"cannot measure the store's disk in {folder}: {exc.strerror or exc}; give --store a"
            f" folder with {FILE_BYTES >> 20} MiB to spare that you may write"
        ) from exc


def _fill(descriptor: int) -> int:
    """Write blocks of noise, which nothing compresses, until LIMIT_S; how many."""
    block, stop_s = os.urandom(BLOCK_BYTES), time.monotonic() + LIMIT_S
    num_blocks = 0
    while num_blocks < FILE_BYTES // BLOCK_BYTES and (not num_blocks or time.monotonic() < stop_s):
        os.write(descriptor, block)
        os.fsync(descriptor)  # only pages that are on the disk can be dropped
        num_blocks += 1
    return num_blocks


def _read_blocks(descriptor: int, num_blocks: int) -> list[float]:
    """Bytes per second of each block."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    memory, rates = bytearray(BLOCK_BYTES), []
    stop_s = time.monotonic() + LIMIT_S
    for number in range(num_blocks):
        start_s = time.perf_counter()
        count = os.preadv(descriptor, [memory], number * BLOCK_BYTES)
        rates.append(count / (time.perf_counter() - start_s))
        if time.monotonic() > stop_s:
            break
    return rates
