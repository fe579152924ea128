"""Which runner a model gets, and what is said where it cannot be the one that was asked for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from partwise.distributor import balance_layers, check_runners, check_whole, choose_runner
from partwise.distributor.plan import decode_plan, encode_plan
from partwise.distributor.runners import RunnerWish
from partwise.errors import PlanError
from partwise.model import open_model
from support.decoders import save_decoder
from support.members import plan_members


@pytest.mark.parametrize(
    ("wish", "runner", "why"),
    [
        (RunnerWish(), "onnx", "fastest"),
        (RunnerWish(precision="int4"), "onnx", "fastest"),
        (RunnerWish(runner="onnx"), "onnx", "asked for"),
        (RunnerWish(runner="torch"), "torch", "asked for"),
        (RunnerWish(is_deterministic=True), "torch", "same for every number of parts"),
    ],
)
def test_the_runner_is_the_fastest_that_does_what_is_asked(
    wish: RunnerWish, runner: str, why: str, tiny_llama: Path
) -> None:
    choice = choose_runner(open_model(tiny_llama), wish)
    assert (choice.runner, choice.precision) == (runner, wish.precision or "fp32")
    assert why in choice.reason


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (RunnerWish(precision="int3"), "'int3' is not known: give one of fp32, int8, int4"),
        (RunnerWish(precision="bf16"), "'bf16' is computed by no runner on CPUs: give one of fp32"),
        (RunnerWish(runner="jax"), "the runner 'jax' is not known: give one of torch, onnx"),
        (RunnerWish(precision="int8", runner="torch"), "fp32 alone: give fp32 instead of int8"),
        (RunnerWish(precision="int8", is_deterministic=True), "a deterministic run is in fp32"),
        (RunnerWish(runner="onnx", is_deterministic=True), "leave out the onnx runner"),
    ],
)
def test_what_no_runner_does_is_refused(wish: RunnerWish, says: str, tiny_llama: Path) -> None:
    with pytest.raises(PlanError, match=says):
        choose_runner(open_model(tiny_llama), wish)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("tiny_gpt2", "GPT2LMHeadModel"), ("tiny_mixtral", "MixtralForCausalLM")],
)
def test_a_family_without_operators_is_torchs_and_has_no_rounded_weights(
    name: str, architecture: str, request: pytest.FixtureRequest
) -> None:
    model = open_model(request.getfixturevalue(name))
    for wish in (RunnerWish(), RunnerWish(runner="onnx")):
        choice = choose_runner(model, wish)
        assert choice.runner == "torch"
        assert f"does not cover this model: {architecture} is none of Llama" in choice.reason
    with pytest.raises(PlanError, match=f"onnx runner, and {architecture} is none.*: give fp32"):
        choose_runner(model, RunnerWish(precision="int4"))


def test_heads_and_inputs_must_suit_the_operators(tmp_path: Path) -> None:
    narrow = open_model(save_decoder(tmp_path / "narrow", "mistral", head_dim=8))
    choice = choose_runner(narrow, RunnerWish())
    assert (choice.runner, "heads have 8 elements, no multiple of 16" in choice.reason) == (
        "torch", True,
    )  # fmt: skip
    odd = open_model(save_decoder(tmp_path / "odd", "llama", intermediate_size=144))
    assert choose_runner(odd, RunnerWish()).runner == "onnx"
    with pytest.raises(PlanError, match="down_proj.weight has 144 inputs, which blocks of 32 do"):
        choose_runner(odd, RunnerWish(precision="int8"))


def test_a_plan_carries_both_and_one_without_reads_as_torch(tiny_llama: Path) -> None:
    model = open_model(tiny_llama)
    plan = balance_layers(model, ["a", "b"], precision="int4")
    assert [(part.runner, part.precision) for part in plan.parts] == [("onnx", "int4")] * 2
    assert decode_plan(encode_plan(plan)) == plan
    check_whole(plan)
    old = msgspec.json.decode(encode_plan(balance_layers(model, ["a", "b"])))
    for part in old["parts"]:
        del part["runner"]
    read = decode_plan(msgspec.json.encode(old))
    assert [(part.runner, part.precision) for part in read.parts] == [("torch", "fp32")] * 2


def test_a_plan_for_operators_that_do_not_cover_the_model_is_refused(tiny_gpt2: Path) -> None:
    model = open_model(tiny_gpt2)
    with pytest.raises(PlanError, match="part0 is for the onnx runner, and GPT2LMHeadModel is"):
        check_runners(balance_layers(model, ["a"], runner="onnx"), model)
    with pytest.raises(PlanError, match="part0 is at int8: the torch runner computes whole"):
        check_whole(balance_layers(model, ["a"], precision="int8", runner="torch"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "gelu"}, "its activation is gelu, not silu"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "it rotates 8 elements of a head, no multiple of 16",
        ),
    ],
)
def test_what_the_config_asks_for_beside_the_architecture_is_heeded(
    changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    model = open_model(save_decoder(tmp_path, "llama", **changes))
    choice = choose_runner(model, RunnerWish())
    assert choice.runner == "torch"
    assert says in choice.reason


def test_the_members_of_a_stage_have_one_runner(tiny_llama: Path) -> None:
    model = open_model(tiny_llama)
    plan = plan_members(model, 2, {"mlp_unit": (0, 1)})
    check_runners(plan, model)
    parts = (plan.parts[0], msgspec.structs.replace(plan.parts[1], runner="torch"))
    with pytest.raises(PlanError, match="part0 is for the onnx runner and part1 for torch"):
        check_runners(msgspec.structs.replace(plan, parts=parts), model)
