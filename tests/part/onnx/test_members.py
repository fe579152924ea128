"""Members of a stage on the onnx runner against one part that holds its layers whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle_cases import load_network
from partwise.distributor.member_shares import find_granules
from partwise.errors import NotFinite, PlanError
from partwise.model import open_model
from partwise.part.onnx import linear, segments
from partwise.part.onnx.kv import KvPool
from partwise.part.onnx.runner import OnnxRunner
from partwise.remote.frame import Row, RowFlag
from support.decoders import DECODERS, save_decoder
from support.exchange import run_members
from support.members import Owners, find_difference, plan_members, run_passes
from support.passes import ALL, Outputs
from support.stages import Stages

SIZES = {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4}
RELATIVE = 1e-4
ROUNDED = 0.05
"""How far apart sums in another order may be where products round their inputs to int8: measured up
to 0.024 on 4 random blocks. Wrong neurons are further (`test_swapped_shares_are_caught`)."""
EVERYTHING = {"kv_group": (0, 1), "mlp_unit": (1, 0), "vocabulary_row": (0, 0, 1)}
EVERYTHING_OF_THREE = {"kv_group": (0, 1, 2, 0), "mlp_unit": (2, 1, 0), "vocabulary_row": (1, 2, 0)}
IN_FP32 = 0
"""The level of accuracy at which products of rounded weights leave their inputs as they are."""
OWNERS: dict[str, tuple[int, Owners]] = {
    "halves": (2, {"kv_group": (0, 0, 1, 1), "mlp_unit": (0, 1), "vocabulary_row": (0, 1)}),
    "uneven": (2, {"kv_group": (0, 1, 1, 1), "mlp_unit": (1, 1, 0), "vocabulary_row": (0, 0, 1)}),
    "three": (3, EVERYTHING_OF_THREE),
    "four": (4, {"kv_group": (3, 2, 1, 0), "mlp_unit": (0, 1, 2, 3), "vocabulary_row": (2, 0, 3)}),
    "one without groups": (2, {"kv_group": (0,), "mlp_unit": (0, 1)}),
    "one without units": (2, {"kv_group": (0, 1), "mlp_unit": (1,)}),
    "one without rows": (2, {"vocabulary_row": (1,), "mlp_unit": (0, 1)}),
    "attention alone": (2, {"kv_group": (0, 1)}),
    "the ends alone": (2, {"vocabulary_row": (0, 1)}),
    "some layers": (2, {"kv_group@2": (0, 1), "mlp_unit@3": (0, 1), "mlp_unit@1": (1,)}),
}  # fmt: skip


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            biased = {"mlp_bias": True} if name == "llama" else {}
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            made[name] = save_decoder(folder, name, **SIZES, **biased)
        return made[name]

    return get


@pytest.fixture(scope="module")
def wholes() -> Any:
    """What one part says, computed once."""
    known: dict[tuple[Path, str], Outputs] = {}

    def get(path: Path, precision: Any = "fp32") -> Outputs:
        if (path, precision) not in known:
            plan = plan_members(open_model(path), 1, {}, precision=precision)
            known[path, precision] = run_passes(Stages(path, plan, OnnxRunner))
        return known[path, precision]

    return get


def open_members(path: Path, owners: Owners, count: int = 2, precision: Any = "fp32") -> Stages:
    model = open_model(path)
    granules = {"mlp_unit": 7, "vocabulary_row": 24}
    if precision != "fp32":
        granules = find_granules(model, precision, None)
    plan = plan_members(model, count, owners, precision=precision, granules=granules)
    return Stages(path, plan, OnnxRunner)


@pytest.mark.parametrize("name", list(DECODERS))
def test_every_family_is_computed_in_shares(name: str, decoders: Any, wholes: Any) -> None:
    path = decoders(name)
    found = run_passes(open_members(path, EVERYTHING))
    assert find_difference(found, wholes(path)) < RELATIVE


@pytest.mark.parametrize("case", list(OWNERS))
def test_shares_of_all_kinds_add_up(case: str, decoders: Any, wholes: Any) -> None:
    path = decoders("llama")
    count, owners = OWNERS[case]
    stages = open_members(path, owners, count)
    assert find_difference(run_passes(stages), wholes(path)) < RELATIVE
    first, *others = [exchange.calls for exchange in stages.exchanges]
    assert all(calls == first for calls in others)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", ["llama", "llama tied", "mistral", "qwen2", "qwen3", "phi3"])
def test_rounded_shares_are_as_the_rounded_whole(
    name: str, precision: str, decoders: Any, wholes: Any
) -> None:
    path = decoders(name)
    found = run_passes(open_members(path, EVERYTHING, precision=precision))
    assert find_difference(_without_picks(found), _without_picks(wholes(path, precision))) < ROUNDED


@pytest.mark.parametrize(
    ("name", "precision"),
    [("llama", "int8"), ("llama tied", "int4"), ("qwen3", "int4"), ("phi3", "int8")],
)
def test_rounded_shares_add_up_where_inputs_are_not_rounded(
    name: str, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What remains at `ROUNDED` is of inputs alone, which fall on the other side of a rounding."""
    monkeypatch.setattr(linear, "ACCURACY_LEVEL", IN_FP32)
    path = save_decoder(tmp_path, name, **SIZES)  # a graph of its own, for the level is in no key
    model = open_model(path)
    whole = run_passes(Stages(path, plan_members(model, 1, {}, precision=precision), OnnxRunner))
    members = open_members(path, EVERYTHING_OF_THREE, 3, precision)
    assert find_difference(run_passes(members), whole) < RELATIVE


def _without_picks(outputs: Outputs) -> Outputs:
    """Of int8 products near ties fall otherwise."""
    return [(np.empty(0, np.int64), *tensors[1:]) for tensors in outputs]


def test_they_say_what_transformers_says(decoders: Any) -> None:
    import torch

    path = decoders("llama")
    ids = np.random.default_rng(7).integers(0, 380, (8, 400))[0, :17]
    with torch.inference_mode():
        expected = load_network(path)(torch.from_numpy(ids)[None]).logits[0, -1].numpy()
    stages = open_members(path, EVERYTHING)
    found = stages.run((Row(0, 0, 17, int(ALL)),), ids.tolist())[2][0]
    assert np.abs(found - expected).max() / np.abs(expected).max() < RELATIVE


@pytest.mark.parametrize("layers", [(0, 3), (2, 4), (3, 7), (6, 7)])
def test_a_stage_of_members_stands_between_others(
    layers: tuple[int, int], decoders: Any, wholes: Any
) -> None:
    path = decoders("qwen2")
    start, stop = layers
    owners: dict[str, tuple[int, ...]] = {}
    if start < 5 and stop > 1:
        owners |= {"kv_group": (0, 1, 1), "mlp_unit": (0, 1)}
    if start == 0 or stop == 7:
        owners["vocabulary_row"] = (0, 1)
    plan = plan_members(open_model(path), 2, owners, layers=layers)
    assert find_difference(run_passes(Stages(path, plan, OnnxRunner)), wholes(path)) < RELATIVE


@pytest.mark.parametrize("layers", [(0, 1), (5, 7), (6, 7)])
def test_a_member_may_own_nothing_of_its_stage(
    layers: tuple[int, int], decoders: Any, wholes: Any
) -> None:
    path = decoders("qwen2")
    plan = plan_members(open_model(path), 2, {"vocabulary_row": (1,)}, layers=layers)
    assert find_difference(run_passes(Stages(path, plan, OnnxRunner)), wholes(path)) < RELATIVE


@pytest.mark.parametrize("flags", [RowFlag.PICK, RowFlag.PICK | RowFlag.LOGPROB])
def test_what_no_row_asks_for_is_not_exchanged(flags: RowFlag, decoders: Any) -> None:
    stages = open_members(decoders("llama"), {"vocabulary_row": (0, 1)})
    stages.run((Row(0, 0, 3), Row(1, 0, 2)), [1, 2, 3, 4, 5])
    assert stages.exchanges[0].calls == ["sum (5, 128)"]
    stages.run((Row(0, 3, 1, int(flags)), Row(1, 2, 1, int(flags))), [6, 7])
    assert stages.exchanges[0].calls[1:] == ["sum (2, 128)", "gather int64"]


def test_members_may_hear_of_releases_at_different_times(decoders: Any, wholes: Any) -> None:
    """Then their sequences lie in other slots: rows are exchanged in the order of the pass."""
    path = decoders("llama")
    decode = int(ALL)
    passes = [
        tuple(Row(i, 0, 3) for i in range(5)),
        tuple(Row(i, 3, 1, decode) for i in range(5)),
        (Row(1, 4, 1, decode), Row(2, 4, 1, decode), Row(4, 4, 1, decode)),
        tuple(Row(i, 5, 1, decode) for i in (4, 1, 2)),
    ]
    whole = Stages(path, plan_members(open_model(path), 1, {}), OnnxRunner)
    stages = open_members(path, EVERYTHING)
    are_alike: list[bool] = []

    def release(number: int) -> None:
        if number in {2, 3}:
            stages.runners[0][number - 2].release([0, 3])
            pools = [runner._kv for runner in stages.runners[0]]
            first, second = (list(pool._slots) for pool in pools if pool is not None)
            are_alike.append(first == second)

    found = run_passes(stages, passes, before=release)
    assert are_alike == [False, True]
    assert find_difference(found, run_passes(whole, passes)) < RELATIVE


def test_caches_grow_and_sequences_come_and_go(decoders: Any) -> None:
    path = decoders("llama")
    length = 160  # beyond the first class of capacities
    passes: list[tuple[Row, ...]] = [(Row(i, 0, length - i),) for i in range(3)]
    for step in range(4):
        rows = itertools.chain(range(3), [3] if step > 1 else [])
        starts = {0: length, 1: length - 1, 2: length - 2, 3: -2}
        passes.append(tuple(Row(i, starts[i] + step, 1, int(ALL)) for i in rows))
    whole = Stages(path, plan_members(open_model(path), 1, {}), OnnxRunner)
    stages = open_members(path, EVERYTHING)
    assert find_difference(run_passes(stages, passes), run_passes(whole, passes)) < RELATIVE
    stages.release([0, 1, 2, 3])
    whole.release([0, 1, 2, 3])
    assert find_difference(run_passes(stages), run_passes(whole)) < RELATIVE


@pytest.mark.parametrize("kind", ["kv_group", "mlp_unit", "vocabulary_row"])
def test_swapped_shares_are_caught(
    kind: str, decoders: Any, wholes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer's shares of one kind, of the one member as the other owns them."""
    path = save_decoder(tmp_path, "llama", **SIZES, mlp_bias=True)
    expected = wholes(path)
    from partwise.part.onnx import shares

    original = shares.find_owned_neurons
    layer = 2 if kind != "vocabulary_row" else 0

    def swap(plan: Any, part: str, index: int) -> Any:
        wrong = {"part0": "part1", "part1": "part0"}[part]
        return original(plan, wrong if index == layer and part == "part0" else part, index)

    monkeypatch.setattr(shares, "find_owned_neurons", swap)
    owners = {"kv_group": (0, 0, 1, 1), "mlp_unit": (0, 1), "vocabulary_row": (0, 1)}
    found = run_passes(open_members(path, {kind: owners[kind]}))
    assert find_difference(found, expected) > 100 * RELATIVE


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the bias is added by nobody": lambda patch: patch.setattr(
        segments.SegmentWriter, "_expect_sum", _without_bias(segments.SegmentWriter._expect_sum)
    ),
    "rows are exchanged as they lie": lambda patch: patch.setattr(
        "partwise.part.onnx.segmented._find_places", lambda order: None
    ),
    "what is in slots is not moved": lambda patch: patch.setattr(KvPool, "_move", lambda *_: None),
}


def _without_bias(original: Any) -> Any:
    return lambda self, layer, bias: original(self, layer, "no bias")


@pytest.mark.parametrize("mutation", list(MUTATIONS))
def test_the_comparison_fails_when_members_are_broken(
    mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_decoder(tmp_path, "llama", **SIZES, mlp_bias=True)
    passes = [
        tuple(Row(i, 0, 3) for i in range(4)),
        tuple(Row(i, 3, 1, int(ALL)) for i in range(4)),
        tuple(Row(i, 4, 1, int(ALL)) for i in (1, 3, 2)),
    ]
    expected = run_passes(Stages(path, plan_members(open_model(path), 1, {}), OnnxRunner), passes)
    MUTATIONS[mutation](monkeypatch)
    stages = open_members(path, EVERYTHING)
    released: list[int] = []

    def release(number: int) -> None:
        if number == 2 and not released:
            released.append(0)
            stages.runners[0][0].release([0])

    assert find_difference(run_passes(stages, passes, before=release), expected) > 100 * RELATIVE


def test_a_member_with_damaged_weights_is_named_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_decoder(tmp_path, "llama", **SIZES)
    plan = plan_members(open_model(path), 2, {"vocabulary_row": (0, 1)})
    stages = Stages(path, plan, OnnxRunner)
    damaged = stages.runners[0][1]
    head = damaged._shared_head
    assert head is not None
    logits = np.zeros((1, len(head.own_ids)), np.float32)
    logits[0, 5] = np.nan
    monkeypatch.setattr(damaged._graph, "run", lambda *_: logits)
    ids = np.array([1, 2, 3])

    def run(member: int) -> str:
        with pytest.raises(NotFinite) as found:
            stages.runners[0][member].run((Row(0, 0, 3, int(ALL)),), (ids,), lambda: None)
        return str(found.value)

    first, second = run_members(run, 2)
    assert first == second
    assert first.startswith("part1 ")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_cut_within_a_block_names_the_nearest_that_fits(precision: Any, decoders: Any) -> None:
    model = open_model(decoders("llama"))
    owners = {"mlp_unit": (0, 1)}
    with pytest.raises(PlanError, match=r"but 48 is not a multiple of the granule 32: .* 32"):
        plan_members(model, 2, owners, precision=precision, granules={"mlp_unit": 48})
