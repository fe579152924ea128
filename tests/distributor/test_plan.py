"""A plan's JSON: exact, validated, and of one format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from partwise.distributor import balance_layers, decode_plan, encode_plan, read_plan, verify_plan
from partwise.errors import PlanError
from partwise.model import Model


def test_a_plan_round_trips_to_the_same_bytes(model: Model, tmp_path: Path) -> None:
    plan = balance_layers(model, ["a", "b", "c"])
    data = encode_plan(plan)
    (tmp_path / "plan.json").write_bytes(data)
    assert read_plan(tmp_path / "plan.json") == plan
    assert encode_plan(decode_plan(data)) == data
    assert json.loads(data)["format"] == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8", "int4"])
@pytest.mark.parametrize("mlp_sparsity", [0.0, 0.1, 1 / 3, 0.9])
def test_what_a_part_is_reduced_to_round_trips(
    model: Model, precision: Any, mlp_sparsity: float
) -> None:
    plan = balance_layers(model, ["a", "b"])
    changed = msgspec.structs.replace(plan.parts[1], precision=precision, mlp_sparsity=mlp_sparsity)
    plan = msgspec.structs.replace(plan, parts=(plan.parts[0], changed))
    verify_plan(plan, model)
    data = encode_plan(plan)
    assert decode_plan(data) == plan
    assert encode_plan(decode_plan(data)) == data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(format=1), "has format 1, this partwise reads format 2"),
        (lambda tree: tree.pop("stages"), "not a plan: .*`stages`"),
        (lambda tree: tree.update(colour="red"), "not a plan: .*`colour`"),
        (lambda tree: tree["stages"][0].update(start="0"), "not a plan: .*start"),
        (lambda tree: tree["links"][0].update(codec="zip"), "not a plan: .*'zip'"),
        (lambda tree: tree["parts"][0].update(precision="int1"), "not a plan: .*'int1'"),
        (lambda tree: tree["parts"][0].update(mlp_sparsity="a"), "not a plan: .*mlp_sparsity"),
    ],
)
def test_json_that_is_no_plan_is_refused(
    model: Model, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    tree = json.loads(encode_plan(balance_layers(model, ["a", "b"])))
    change(tree)
    with pytest.raises(PlanError, match=message):
        decode_plan(json.dumps(tree).encode())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot read the plan .*absent.json: No such file"):
        read_plan(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PlanError, match=r"not a plan: .*make one with"):
        read_plan(tmp_path / "bad.json")


def test_a_part_or_stage_that_does_not_exist_is_named_beside_those_that_do(model: Model) -> None:
    plan = balance_layers(model, ["a", "b"])
    with pytest.raises(PlanError, match="no part 'part9': its parts are part0, part1"):
        plan.part("part9")
    with pytest.raises(PlanError, match="'part9' is a member of no stage"):
        plan.stage_of("part9")
