"""Which runner a model gets, and what is said where it cannot be the one that was asked for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from partwise.distributor import (
    balance_layers,
    check_runners,
    check_whole,
    choose_runner,
    measure_holding,
)
from partwise.distributor.devices import check_device
from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import decode_plan, encode_plan
from partwise.distributor.runners import RunnerWish
from partwise.distributor.workload import Workload
from partwise.errors import PlanError, UsageError
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
        (RunnerWish(precision="bf16"), "torch", "it alone computes bf16"),
        (RunnerWish(precision="bf16", runner="torch"), "torch", "asked for"),
        (RunnerWish(precision="bf16", is_deterministic=True), "torch", "same for every number"),
        (RunnerWish(device="cuda"), "torch", "it alone computes on cuda"),
        (RunnerWish(device="cuda:1", precision="bf16"), "torch", "it alone computes bf16"),
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
        (RunnerWish(precision="int3"), "'int3' is not known: give one of fp32, bf16, int8, int4"),
        (RunnerWish(precision="fp16"), "'fp16' is computed by no runner: give one of fp32, bf16"),
        (RunnerWish(runner="jax"), "the runner 'jax' is not known: give one of torch, onnx"),
        (RunnerWish(precision="int8", runner="torch"), "the torch runner is in fp32 or bf16: give"),
        (RunnerWish(precision="int8", is_deterministic=True), "a deterministic run is in fp32"),
        (RunnerWish(precision="bf16", runner="onnx"), "bf16 is for the torch runner: leave out"),
        (
            RunnerWish(runner="onnx", device="cuda"),
            "computes on CPUs alone, and the device is cuda: take the torch runner, in fp32 or bf",
        ),
        (RunnerWish(precision="int8", device="cuda:1"), "int8 is for the onnx runner, which comp"),
        (RunnerWish(is_deterministic=True, device="cuda"), "checked that cuda gives the same bits"),
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
    with pytest.raises(
        PlanError, match=f"onnx runner, and {architecture} is none.*: give fp32 or bf16"
    ):
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


def test_the_members_of_a_stage_are_all_in_bf16_or_none(tiny_llama: Path) -> None:
    model = open_model(tiny_llama)
    plan = plan_members(model, 2, {"mlp_unit": (0, 1)})
    in_bf16 = [
        msgspec.structs.replace(part, runner="torch", precision="bf16") for part in plan.parts
    ]
    check_runners(msgspec.structs.replace(plan, parts=tuple(in_bf16)), model)
    parts = (in_bf16[0], msgspec.structs.replace(in_bf16[1], precision="fp32"))
    with pytest.raises(PlanError, match="part0 is at bf16 and part1 at fp32.*give bf16 to all"):
        check_runners(msgspec.structs.replace(plan, parts=parts), model)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_device_is_the_cpu_or_a_cuda_device(device: str) -> None:
    assert check_device(device) == device


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:01", "cpu:0", "cuda\n"])
def test_other_devices_are_not_known(device: str) -> None:
    with pytest.raises(UsageError, match="is not known: give cpu, cuda or cuda:N"):
        check_device(device)


def test_a_part_in_bf16_holds_half_of_the_bytes_of_fp32(tiny_llama: Path) -> None:
    model = open_model(tiny_llama)
    plans = [balance_layers(model, ["a"], precision=p) for p in ("fp32", "bf16")]
    plain, half = (measure_holding(plan, model, "part0") for plan in plans)
    assert 2 * half.weight_bytes == plain.weight_bytes
    assert 2 * half.kv_bytes_per_token == plain.kv_bytes_per_token
    assert 2 * half.read_bytes_per_token == plain.read_bytes_per_token
    prints = [part_footprint(plan, model, "part0", Workload()) for plan in plans]
    for key in ("weight_bytes", "kv_bytes"):
        assert 2 * getattr(prints[1], key) == getattr(prints[0], key)
