"""The disk of a store: read back, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from partwise.errors import ProbeError
from partwise.probe import disk
from partwise.probe.disk import measure_store


def test_a_folder_is_read_at_some_rate_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FILE_BYTES", 4 << 20)
    monkeypatch.setattr(disk, "BLOCK_BYTES", 1 << 20)
    rate = measure_store(tmp_path)
    assert 1e5 < rate.low <= rate.median <= rate.high
    assert not list(tmp_path.iterdir())


def test_what_memory_still_holds_is_dropped_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    synced, dropped, read = os.fsync, os.posix_fadvise, os.preadv
    monkeypatch.setattr(disk, "FILE_BYTES", 2 << 20)
    monkeypatch.setattr(disk, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), synced(fd)))
    monkeypatch.setattr(os, "posix_fadvise", lambda *words: (done.append("drop"), dropped(*words)))
    monkeypatch.setattr(os, "preadv", lambda *words: (done.append("read"), read(*words))[1])
    measure_store(tmp_path)
    assert done == ["sync", "sync", "drop", "read", "read"]


def test_what_a_slow_disk_reads_in_time_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(disk, "LIMIT_S", 0.0)
    assert measure_store(tmp_path).median > 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="cannot measure the store's disk in .*nowhere: No such"):
        measure_store(tmp_path / "nowhere")
