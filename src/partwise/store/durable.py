"""Writing a small file so that no reader ever sees half of it, and the lock around that.

Not for shards: the whole content passes through memory.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partwise.errors import StoreError

LOCK_TIMEOUT_S = 30.0
LOCK_POLL_S = 0.005


@contextmanager
def locked(folder: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock of a store's folder; blocks other processes and other threads alike.

    The kernel releases it when its holder dies, so there is no stale lock to clean up.

    Raises:
        StoreError: somebody else held it for ``timeout_s``, or it cannot be taken here.
    """
    path = folder / "lock"
    try:
        # flock, not lockf: it belongs to this open file, so threads exclude each other too.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as exc:
        raise StoreError(f"cannot open the lock {path}: {exc.strerror}") from exc
    try:
        _acquire(descriptor, path, timeout_s)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as exc:
            if time.monotonic() >= deadline:
                raise StoreError(
                    f"the lock {path} was held by another process for {timeout_s:g} s: "
                    "find it with `fuser` on that file, end it, then try again"
                ) from exc
        except OSError as exc:
            raise StoreError(
                f"cannot lock {path}: {exc.strerror}; keep the store on a file system with locks"
            ) from exc
        time.sleep(LOCK_POLL_S)


def replace_file(path: Path, data: bytes) -> None:
    """Make ``data`` the content of ``path``: all of it or, after a crash, none of it.

    The caller holds the folder's lock. The temporary name is always the same, so what a
    killed writer left behind is overwritten by the next one.

    Raises:
        StoreError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise StoreError(
            f"cannot write {path} ({len(data)} bytes): {exc.strerror}; free space or permit writing"
        ) from exc


def remove_file(path: Path) -> None:
    """Remove a file if it is there; the caller holds the folder's lock.

    Raises:
        StoreError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise StoreError(f"cannot remove {path}: {exc.strerror}; remove it by hand") from exc


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash.

    Raises:
        StoreError: it is gone, or its disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise StoreError(
            f"cannot sync the folder {folder}: {exc.strerror}; see that nobody removes it, and that"
            " its disk works"
        ) from exc
