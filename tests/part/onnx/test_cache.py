"""Built graphs: kept, checked, and built again where they are damaged or of other weights."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partwise.distributor import balance_layers
from partwise.errors import StoreError
from partwise.model import open_model
from partwise.part.onnx import build, cache
from partwise.part.onnx.graph import HashedFile
from partwise.part.onnx.runner import OnnxRunner
from partwise.part.onnx.stale import RECORD_NAME, STALE_S
from partwise.part.runner import RunnerOptions
from partwise.remote.frame import Row, RowFlag
from partwise.store import Store
from support.decoders import save_decoder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_decoder(tmp_path, "qwen2")


class Abandoned(Exception):
    """The server's own is like it."""


def open_runner(path: Path, **changes: Any) -> OnnxRunner:
    model = open_model(path)
    plan = balance_layers(model, ["server"], precision=changes.pop("precision", "fp32"))
    with Store.open(path) as store:
        return OnnxRunner(
            RunnerOptions(
                plan=plan, part="part0", model=model, model_path=path, store=store,
                threads=1, on_progress=changes.pop("on_progress", lambda done, total: None),
            )
        )  # fmt: skip


def logits_of(runner: OnnxRunner) -> np.ndarray:
    ids = np.arange(9)
    row = Row(1, 0, len(ids), int(RowFlag.PICK | RowFlag.LOGITS))
    return runner.run((row,), (ids,), lambda: None)[-1]


def data_files(path: Path) -> dict[Path, int]:
    return {file: file.stat().st_ino for file in path.rglob("*.data")}


def test_a_second_start_reads_what_the_first_built(path: Path) -> None:
    first = logits_of(open_runner(path))
    files = data_files(path)
    runner = open_runner(path)
    assert (logits_of(runner) == first).all()
    assert (runner.notes, data_files(path)) == ((), files)
    assert [file.name.split("-")[0] for file in sorted(files)] == ["graph", "table", "weights"]


@pytest.mark.parametrize("role", ["graph", "weights", "table"])
def test_a_wrong_digest_is_built_again_and_said(path: Path, role: str) -> None:
    first = logits_of(open_runner(path))
    (damaged,) = path.rglob(f"{role}-*.data")
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    runner = open_runner(path)
    assert (logits_of(runner) == first).all()
    assert runner.notes == (f"part0's graph file {damaged.name} has a wrong digest: built again",)
    assert not damaged.exists()
    assert open_runner(path).notes == ()


def test_a_record_that_is_torn_is_built_again(path: Path) -> None:
    open_runner(path)
    (record,) = path.rglob(RECORD_NAME)
    record.write_bytes(b'{"builder":')
    (note,) = open_runner(path).notes
    assert "cannot be read" in note


def test_other_weights_are_another_graph(path: Path) -> None:
    open_runner(path)
    shard = path / "model.safetensors"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    (note,) = open_runner(path).notes
    assert "weights that have changed" in note


def test_a_full_disk_is_one_line_and_leaves_the_old_graph(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = logits_of(open_runner(path, precision="int8"))
    files = data_files(path)
    original = HashedFile.write

    def write(self: HashedFile, data: Any) -> None:
        if self.num_bytes > 50_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(build.HashedFile, "write", write)
        with pytest.raises(StoreError, match="No space left on device; free space"):
            open_runner(path, precision="int4")
    assert data_files(path) == files
    assert (logits_of(open_runner(path, precision="int8")) == first).all()


def graphs(path: Path) -> set[str]:
    """The folders of graphs that there are."""
    return {file.parent.name for file in path.rglob(RECORD_NAME)}


def test_graphs_of_an_older_builder_are_removed_and_those_of_this_one_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = cache.BUILDER_VERSION - 1
    with monkeypatch.context() as patch:
        for module in (cache, build):
            patch.setattr(module, "BUILDER_VERSION", other)
        old = open_runner(path)
        open_runner(path, precision="int8")
    stale = graphs(path)
    (note,) = open_runner(path, precision="int4").notes
    assert "older builders, or of models that are gone, were removed: 1." in note
    (kept,) = graphs(path)
    assert kept not in stale
    assert all((folder / RECORD_NAME).exists() for folder in path.glob(".partwise/*/*/graphs/*"))
    logits_of(old)  # its files are mapped
    assert open_runner(path, precision="int8").notes == ()
    assert graphs(path) > {kept}


def test_graphs_of_a_newer_builder_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = cache.BUILDER_VERSION + 1
    with monkeypatch.context() as patch:
        for module in (cache, build):
            patch.setattr(module, "BUILDER_VERSION", other)
        open_runner(path)
    newer = graphs(path)
    assert open_runner(path, precision="int4").notes == ()
    assert graphs(path) > newer


def test_graphs_of_another_config_or_of_other_weights_are_removed(path: Path) -> None:
    open_runner(path)
    (old,) = graphs(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"rope_theta": 5e5}))
    (note,) = open_runner(path, precision="int4").notes
    assert "were removed" in note
    (other,) = graphs(path)
    assert other != old
    shard = path / "model.safetensors"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))
    (note,) = open_runner(path).notes
    assert "were removed" in note
    assert len(graphs(path)) == 1
    assert graphs(path) != {other}


def test_graphs_of_a_version_that_is_gone_are_removed(path: Path) -> None:
    open_runner(path)
    (record,) = path.rglob(RECORD_NAME)
    gone = path / ".partwise" / "versions" / "00000007" / "graphs" / record.parent.name
    shutil.copytree(record.parent, gone)
    (note,) = open_runner(path).notes
    assert "were removed" in note
    assert not gone.exists()
    assert record.exists()


def test_what_is_being_built_is_no_stale_graph(path: Path) -> None:
    open_runner(path)
    (record,) = path.rglob(RECORD_NAME)
    building = record.parent.with_name("0-2-int4-0123456789ab")
    building.mkdir()
    (building / "weights-1.data").write_bytes(bytes(1000))
    assert open_runner(path).notes == ()
    assert building.exists()
    old = time.time() - STALE_S - 1
    for file in (building / "weights-1.data", building):
        os.utime(file, (old, old))
    (note,) = open_runner(path).notes
    assert "were removed" in note
    assert not building.exists()


def test_an_abandoned_build_leaves_nothing(path: Path) -> None:
    def abandon(done: int, total: int) -> None:
        if done > total // 2:
            raise Abandoned

    with pytest.raises(Abandoned):
        open_runner(path, on_progress=abandon)
    assert data_files(path) == {}


def test_progress_ends_at_its_total(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    open_runner(path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen[-2][0] == seen[-2][1]
    assert sorted(seen[:-1]) == seen[:-1]


def test_no_file_is_hashed_while_others_wait_for_the_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_runner(path)
    (damaged,) = path.rglob("weights-*.data")
    damaged.write_bytes(bytes(damaged.stat().st_size))  # as large as before
    is_held = [False]
    original = cache.locked

    @contextlib.contextmanager
    def locked(folder: Path) -> Iterator[None]:
        with original(folder):
            is_held[0] = True
            yield
        is_held[0] = False

    def check(path: Path, file: cache.CachedFile, look: Any = cache._damage) -> str:
        assert not is_held[0]
        return look(path, file)

    monkeypatch.setattr(cache, "locked", locked)
    monkeypatch.setattr(cache, "_damage", check)
    (note,) = open_runner(path).notes
    assert "has a wrong digest: built again" in note
    assert open_runner(path).notes == ()


def test_the_graph_of_a_faster_start_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = build.build
    faster: list[dict[Path, int]] = []

    def build_late(*words: Any) -> cache.Record:
        built = original(*words)
        monkeypatch.undo()
        before = data_files(path)
        open_runner(path)
        faster.append({file: i for file, i in data_files(path).items() if file not in before})
        return built

    monkeypatch.setattr(build, "build", build_late)
    logits_of(open_runner(path))
    assert faster == [data_files(path)]


def test_a_built_file_that_is_gone_before_it_is_in_force_is_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = build.build

    def build_in_vain(*words: Any) -> cache.Record:
        built = original(*words)
        next(path.rglob("weights-*.data")).unlink()
        return built

    monkeypatch.setattr(build, "build", build_in_vain)
    with pytest.raises(StoreError, match=r"weights-.*cannot be read .* start again"):
        open_runner(path)
    assert list(path.rglob(RECORD_NAME)) == []


def test_files_that_vanish_while_others_are_removed_are_no_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_runner(path)
    (record,) = path.rglob(RECORD_NAME)
    gone = path / ".partwise" / "versions" / "00000007" / "graphs" / record.parent.name
    shutil.copytree(record.parent, gone)
    shard = path / "model.safetensors"
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))  # so that it is built, and removes
    original_glob, original_iterdir = Path.glob, Path.iterdir
    monkeypatch.setattr(
        Path, "glob", lambda folder, pattern: [*original_glob(folder, pattern), folder / "x.data"]
        if pattern == "*.data" else original_glob(folder, pattern),
    )  # fmt: skip
    monkeypatch.setattr(
        Path, "iterdir", lambda folder: [*original_iterdir(folder), folder / "x.data"]
        if folder == gone else original_iterdir(folder),
    )  # fmt: skip
    notes = open_runner(path).notes
    assert any("were removed" in note for note in notes)
    assert not gone.exists()
