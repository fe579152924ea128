"""Built graphs: kept, checked, and built again where they are damaged or of other weights."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partwise.distributor import balance_layers
from partwise.errors import StoreError
from partwise.model import open_model
from partwise.part.onnx import build
from partwise.part.onnx.cache import RECORD_NAME
from partwise.part.onnx.graph import HashedFile
from partwise.part.onnx.runner import OnnxRunner
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
