"""Which plan a module gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import partwise
from partwise.errors import PartwiseError, PlanError, UsageError
from partwise.module_plan import ModuleWish, prepare_module
from support.modules import capture_net
from support.planning import plan_with


def prepare(name: str, **wish: Any) -> partwise.Plan:
    return prepare_module(capture_net(name).captured, ModuleWish(**wish)).plan


def test_without_a_word_layers_are_balanced_over_the_parts_or_servers() -> None:
    assert [part.server for part in prepare("mlp", parts=2).parts] == ["local-0", "local-1"]
    servers = ["10.0.0.1:70", "10.0.0.2:70", "10.0.0.3:70"]
    plan = prepare("mlp", servers=servers)
    assert [part.server for part in plan.parts] == servers
    assert [len(stage.members) for stage in plan.stages] == [1, 1, 1]


def test_a_strategy_is_asked_with_its_options_and_its_plan_names_the_servers() -> None:
    options = {"percentages": {"b:1": 25, "a:1": 75}}
    plan = prepare("mlp", servers=["b:1", "a:1"], strategy=("percentage", options))
    assert [part.server for part in plan.parts] == ["b:1", "a:1"]
    share = plan.stages[0].members[0].neurons[0]
    assert share.ranges == ((0, 12),)


def test_the_notes_name_layers_that_have_no_neurons_to_share() -> None:
    plan = prepare("lstm", parts=2, strategy="count")
    assert plan.notes[-1].endswith("every member holds: lstm, gru")
    assert "every member holds" not in str(prepare("lstm", parts=2).notes)


def test_connectivity_takes_its_masks_from_the_weights() -> None:
    assert "every weight is non-zero" in prepare("mlp", parts=2, strategy="connectivity").notes[0]


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        ({"parts": 0}, UsageError, "ask for at least 1"),
        ({"parts": 2, "servers": ["a:1"]}, UsageError, "2 parts and 1 servers"),
        ({"strategy": "best"}, PlanError, "no strategy is called 'best'"),
        ({"parts": 9}, PlanError, "9 parts are more than the 3 layers"),
        ({"parts": 11, "strategy": "count"}, PlanError, "10"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    wish: dict[str, Any], error: type[PartwiseError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare("mlp", **wish)


def test_a_plan_of_another_module_or_beside_a_strategy_is_refused() -> None:
    plan = plan_with(capture_net("cnn").model, "count", 2)
    with pytest.raises(PlanError, match="the plan is for another model: Cnn"):
        prepare("mlp", plan=plan)
    with pytest.raises(UsageError, match="a plan says who holds what"):
        prepare("cnn", plan=plan, strategy="count")
    assert prepare("cnn", plan=plan).stages == plan.stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "int8"},
            "torch in fp32 on CPUs, precision is 'int8'",
        ),
        ({"runner": "onnx"}, "runner is 'onnx'"),
        ({"codec": "bf16"}, "codec is 'bf16'"),
    ],
)
def test_options_that_modules_do_not_have_are_refused(
    options: dict[str, Any], message: str
) -> None:
    module = nn.Linear(3, 3).eval()
    with pytest.raises(UsageError, match=message):
        partwise.deploy(module, torch.zeros(1, 3), options=partwise.DeployOptions(**options))


def test_what_is_neither_a_module_nor_a_directory_is_refused() -> None:
    with pytest.raises(UsageError, match="3 is no model"):
        partwise.deploy(3, torch.zeros(1))  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="are for PyTorch modules"):
        partwise.deploy("somewhere", torch.zeros(1))  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="leave version out"):
        partwise.deploy(nn.Linear(3, 3), torch.zeros(1, 3), version=1)  # type: ignore[call-overload]
