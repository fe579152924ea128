"""Where a part's tensors are: on the device of its server, and nothing of a pass elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from partwise.distributor import balance_layers
from partwise.errors import LaunchError, PlanError
from partwise.launch import listening
from partwise.model import open_model
from partwise.part.runner import Runner, RunnerOptions
from partwise.part.torch import runner as torch_runner
from partwise.part.torch.kv import ContiguousKv
from partwise.part.torch.place import PLAIN, Place, find_device, to_array
from support.passes import PASSES, compare, list_tokens, run_transformers
from support.planning import plan_with
from support.stages import Stages, plan_stages

Saved = Callable[[str], Path]
HALF = Place(device=torch.device("cpu"), dtype=torch.bfloat16)


def test_where_nothing_is_to_be_done_nothing_is_copied() -> None:
    for values in (torch.ones(2, 3), torch.ones(3, dtype=torch.int64)):
        assert PLAIN.put(values) is values
    values = torch.ones(2, 3)
    assert to_array(values).ctypes.data == values.data_ptr()


def test_numbers_that_are_whole_keep_their_format() -> None:
    assert HALF.put(torch.ones(3, dtype=torch.int64)).dtype == torch.int64
    halves = HALF.put(torch.full((2,), 1.001))
    assert halves.dtype == torch.bfloat16
    assert to_array(halves).tolist() == [1.0, 1.0]
    assert to_array(halves).dtype == np.float32


def test_a_cache_is_kept_in_the_format_of_its_place() -> None:
    row = ContiguousKv([2], 4, HALF).row(0, 0, 0, 3)
    given = torch.randn(2, 3, 4).bfloat16()
    keys, values = row.append(0, given, given)
    assert keys.dtype == torch.bfloat16
    assert torch.equal(keys, given)
    assert torch.equal(values, given)


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_that_is_there_is_found(
    name: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device(name) == torch.device("cuda", index)


@pytest.mark.parametrize(
    ("name", "count", "says"),
    [
        ("cuda", 0, "cuda is not there: torch [^ ]+ has no CUDA devices: give --device cpu, or"),
        ("cuda:1", 1, "cuda:1 is not there: the CUDA devices of this machine are cuda:0: give one"),
        ("cuda:2", 2, "are cuda:0, cuda:1: give one of them, or --device cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_those_there_are(
    name: str, count: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(LaunchError, match=says):
        find_device(name)
    with pytest.raises(LaunchError, match=says):
        listening.check_device_here(name)


def on(device: str) -> Callable[[RunnerOptions], Runner]:
    """Runners of servers with this device."""

    def make(options: RunnerOptions) -> Runner:
        return listening.make_planned_runner(dataclasses.replace(options, device=device))

    return make


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_every_operand_of_a_pass_is_on_the_device(
    family: str, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device "meta", which computes shapes alone and takes no operand from elsewhere."""
    seen: list[torch.Tensor] = []

    def take(values: torch.Tensor) -> np.ndarray:
        seen.append(values)
        return np.zeros(values.shape, np.float32)

    def pick(values: torch.Tensor, _: object) -> tuple[np.ndarray, ...]:
        return (take(values),)

    monkeypatch.setattr(torch_runner, "find_device", torch.device)
    monkeypatch.setattr(torch_runner, "describe_device", lambda device: f"a {device}")
    monkeypatch.setattr(torch_runner, "is_finite", lambda _: True)
    monkeypatch.setattr(torch_runner, "to_array", take)
    monkeypatch.setattr(torch_runner, "pick", pick)
    path = saved(family)
    model = open_model(path)
    plan = plan_stages(model, [(0, 2, [[]]), (2, len(model.layers), [[]])])
    stages = Stages(path, plan, on("meta"))
    for rows in PASSES:
        stages.run(rows, list_tokens(rows))
    assert {values.device.type for values in seen} == {"meta"}
    assert len(seen) == 2 * len(PASSES) - 1  # one pass asks for nothing
    (first,), _ = stages.runners
    assert first.notes == ("part0 computes on a meta",)
    assert (first.weight_bytes > 0, first.host_bytes) == (True, 0)


def test_the_onnx_runner_is_refused_on_another_device_than_the_cpu(saved: Saved) -> None:
    path = saved("llama")
    plan = balance_layers(open_model(path), ["a"], precision="int8")
    with pytest.raises(PlanError, match="part0 is for the onnx runner, .* and the device is cuda"):
        Stages(path, plan, on("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 0.15)])
@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_cuda_device_says_what_transformers_says(
    family: str, is_shared: bool, precision: str, bound: float, saved: Saved
) -> None:
    path = saved(family)
    model = open_model(path)
    whole = plan_stages(model, [(0, 2, [[]]), (2, len(model.layers), [[]])])
    plan = plan_with(model, "count", 2) if is_shared else whole
    parts = tuple(msgspec.structs.replace(part, precision=precision) for part in plan.parts)
    stages = Stages(path, msgspec.structs.replace(plan, parts=parts), on("cuda"))
    found = [stages.run(rows, list_tokens(rows)) for rows in PASSES]
    assert compare(found, run_transformers(path)).relative < bound
