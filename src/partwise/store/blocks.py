"""Bytes of a block: from the file to the memory that is then checked and used.

Reads through a memory map of the block alone, which is gone when the call returns: its
pages never count to the process for longer. A file that is truncated while it is being
copied ends the process (SIGBUS); one truncated before is an error.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partwise.errors import DamagedModel, StoreError

_PIECE_BYTES = 256 * 2**10
"""Fits a second-level cache, so that hashing does not fetch from memory what was just copied."""

_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a shard, for reading.

    Raises:
        DamagedModel: there is no such file.
        StoreError: it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise DamagedModel(f"shard {path} is missing: restore it") from exc
    except OSError as exc:
        raise StoreError(f"cannot open shard {path}: {exc.strerror}; permit reading it") from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def scratch(num_bytes: int) -> memoryview:
    """Page-aligned memory that goes back to the system with its last view, not to the heap."""
    return memoryview(mmap.mmap(-1, num_bytes))


def copy_block(path: Path, descriptor: int, offset: int, target: memoryview) -> str:
    """Fill ``target`` from ``offset`` of the file; returns the sha256 of the bytes copied.

    Raises:
        DamagedModel: the file ends before the block does.
    """
    size = os.fstat(descriptor).st_size
    if size < offset + len(target):
        raise DamagedModel(
            f"shard {path} is truncated: it has {size} bytes, a tensor in it lies at "
            f"{offset}:{offset + len(target)}; restore it"
        )
    skip = offset % mmap.ALLOCATIONGRANULARITY
    hasher = hashlib.sha256()
    with (
        mmap.mmap(
            descriptor,
            skip + len(target),
            flags=mmap.MAP_SHARED | _POPULATE,
            prot=mmap.PROT_READ,
            offset=offset - skip,
        ) as window,
        memoryview(window) as source,
    ):
        for start in range(0, len(target), _PIECE_BYTES):
            stop = min(start + _PIECE_BYTES, len(target))
            target[start:stop] = source[skip + start : skip + stop]
            # The copy is hashed, not the map: what is used is what was checked.
            hasher.update(target[start:stop])
    return hasher.hexdigest()
