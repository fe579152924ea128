"""A member's built graphs: kept, checked, and of nobody else's neurons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from partwise.model import open_model
from partwise.part.onnx.cache import Record
from partwise.part.onnx.runner import OnnxRunner
from partwise.part.onnx.stale import RECORD_NAME
from partwise.part.runner import RunnerOptions
from partwise.remote.frame import Row
from partwise.store import Store
from support.decoders import save_decoder
from support.exchange import join_threads
from support.members import Owners, plan_members
from support.passes import ALL
from support.stages import Stages

HALVES: Owners = {"kv_group": (0, 1), "mlp_unit": (0, 1), "vocabulary_row": (0, 1)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_decoder(tmp_path, "qwen2")


def open_members(path: Path, owners: Owners) -> Stages:
    return Stages(path, plan_members(open_model(path), 2, owners), OnnxRunner)


def logits_of(stages: Stages) -> np.ndarray[Any, Any]:
    return stages.run((Row(1, 0, 9, int(ALL)),), list(range(9)))[2]


def notes_of(stages: Stages) -> list[str]:
    return [note for runner in stages.runners[0] for note in runner.notes]


def data_files(path: Path) -> dict[Path, int]:
    return {file: file.stat().st_ino for file in path.rglob("*.data")}


def test_a_second_start_reads_what_the_first_built(path: Path) -> None:
    first = logits_of(open_members(path, HALVES))
    files = data_files(path)
    again = open_members(path, HALVES)
    assert (logits_of(again) == first).all()
    assert (notes_of(again), data_files(path)) == ([], files)
    roles = sorted(file.name.split("-")[0] for file in files)
    assert roles == ["graph", "graph", "table", "table", "weights", "weights"]


@pytest.mark.parametrize("role", ["graph", "weights", "table"])
def test_a_wrong_digest_is_built_again_and_said(path: Path, role: str) -> None:
    first = logits_of(open_members(path, HALVES))
    damaged, other = path.rglob(f"{role}-*.data")
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    again = open_members(path, HALVES)
    assert (logits_of(again) == first).all()
    (note,) = notes_of(again)
    assert note.endswith(f"file {damaged.name} has a wrong digest: built again")
    assert other.exists()
    assert not damaged.exists()
    assert notes_of(open_members(path, HALVES)) == []


def test_other_shares_are_other_graphs(path: Path) -> None:
    first = logits_of(open_members(path, HALVES))
    before = data_files(path)
    swapped: Owners = dict.fromkeys(HALVES, (1, 0))
    # The other member owns now what this one did: the same graphs, of the other one.
    assert (logits_of(open_members(path, swapped)) == first).all()
    assert data_files(path) == before
    others = logits_of(open_members(path, HALVES | {"mlp_unit": (0, 0, 1)}))
    assert len(data_files(path)) == 2 * len(before)
    assert np.abs(others - first).max() < 1e-4 * np.abs(first).max()


def test_a_member_holds_its_share_of_the_weights(path: Path) -> None:
    whole = Stages(path, plan_members(open_model(path), 1, {}), OnnxRunner).runners[0][0]
    members = open_members(path, HALVES).runners[0]
    assert all(0.5 < member.weight_bytes / whole.weight_bytes < 0.6 for member in members)


def test_the_graph_of_a_part_alone_says_nothing_of_segments(path: Path) -> None:
    logits_of(Stages(path, plan_members(open_model(path), 1, {}), OnnxRunner))
    (record,) = path.rglob(RECORD_NAME)
    assert "segments" not in json.loads(record.read_bytes())


def test_rotary_tables_are_written_once(path: Path) -> None:
    open_members(path, {"kv_group": (0, 1)})
    file = next(path.rglob(RECORD_NAME))
    record = msgspec.json.decode(file.read_bytes(), type=Record)
    assert record.graph is not None
    raw, start, places = (file.parent / record.graph.name).read_bytes(), 0, []
    for num_bytes in record.segments:
        graph = onnx.load_model_from_string(raw[start : start + num_bytes]).graph
        start += num_bytes
        places += [str(t.external_data) for t in graph.initializer if t.name == "cosines"]
    assert start == len(raw)
    assert len(places) == 4
    assert len(set(places)) == 1


def test_progress_counts_what_a_member_owns(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = open_model(path)
    plan = plan_members(model, 2, {"kv_group": (0, 1), "mlp_unit": (0, 0, 1)})
    with Store.open(path) as store:
        OnnxRunner(
            RunnerOptions(
                plan=plan, part="part1", model=model, model_path=path, store=store, threads=1,
                on_progress=lambda done, total: seen.append((done, total)),
                exchange=join_threads(2)[1],
            )
        )  # fmt: skip
    assert seen[-2][0] == seen[-2][1]
    assert sorted(seen[:-1]) == seen[:-1]
