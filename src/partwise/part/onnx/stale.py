"""Removes graphs that nobody can use any more, so that a store does not fill up with them.

A graph is of no use where an older builder made it, where the model has other files or another
config by now, or where its version of the parameters is gone. Graphs of other layers and
precisions stay, and so do a newer builder's. A server that has a file mapped keeps it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from partwise.errors import StoreError
from partwise.store.durable import locked
from partwise.store.manifest import MANIFEST_NAME

GRAPHS_NAME, RECORD_NAME, DATA_SUFFIX = "graphs", "graph.json", ".data"
STALE_S = 3600.0
"""After so long without a write a file that is not in force is of a build that was killed."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph was built from, in records of any builder: ``sources`` are the model's files,
    ``model`` stands for its config and manifest (empty in records of old)."""

    builder: int
    sources: msgspec.Raw = msgspec.Raw(b"[]")
    model: str = ""


def remove_stale(location: Path, current: Origin) -> int:
    """Remove the graphs of no use beside ``current``, which is in the folder ``location`` of its
    version, and those of versions that are gone; the bytes that were freed.

    What is being built, or cannot be removed, stays.
    """
    found = [(folder, _read_record(folder)) for folder in _list_folders(location)]
    return sum(
        _remove(folder, record) for folder, record in found if _is_stale(folder, record, current)
    )


def _list_folders(location: Path) -> Iterator[Path]:
    """The folders of all graphs of this version, and of those without a manifest."""
    for version in location.parent.glob("*/"):
        if version == location or not (version / MANIFEST_NAME).exists():
            yield from version.glob(f"{GRAPHS_NAME}/*/")


def _read_record(folder: Path) -> bytes:
    """What lies there; nothing where it cannot be read."""
    try:
        return (folder / RECORD_NAME).read_bytes()
    except OSError:
        return b""


def _is_stale(folder: Path, record: bytes, current: Origin) -> bool:
    if not (folder.parent.parent / MANIFEST_NAME).exists():
        return True
    try:
        found = msgspec.json.decode(record, type=Origin)
    except msgspec.DecodeError:
        return not any(is_young(path) for path in (folder, *folder.glob("*")))
    if found.builder > current.builder:
        return False
    is_older, is_other = found.builder < current.builder, found.model not in ("", current.model)
    return is_older or is_other or found.sources != current.sources


def _remove(folder: Path, record: bytes) -> int:
    """Remove a folder, unless somebody builds in it or has put another graph in force than that of
    ``record``; the bytes that were freed."""
    with contextlib.suppress(OSError, StoreError), locked(folder, timeout_s=0):
        paths = [path for path in folder.iterdir() if path.name != "lock"]
        if _read_record(folder) != record or _is_building(paths, record):
            return 0
        # The record first: a graph whose files go is none.
        paths.sort(key=lambda path: path.name != RECORD_NAME)
        num_bytes = sum(map(_count_bytes, paths))
        for path in (*paths, folder / "lock"):
            path.unlink(missing_ok=True)
        folder.rmdir()
        return num_bytes
    return 0


def _is_building(paths: list[Path], record: bytes) -> bool:
    """Whether data is young that the record does not name."""
    return any(
        path.suffix == DATA_SUFFIX and path.name.encode() not in record and is_young(path)
        for path in paths
    )


def _count_bytes(path: Path) -> int:
    """0 where the file is gone by now, as another start's temporary ones are."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def is_young(path: Path) -> bool:
    """Whether a file is there and was written so lately that its build may be running."""
    try:
        return time.time() - path.stat().st_mtime < STALE_S
    except OSError:
        return False
