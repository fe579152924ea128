"""Shares that differ from layer to layer, and members that own none of a kind."""

from __future__ import annotations

import pytest

from partwise.distributor import measure_holding, place_parameters, verify_plan
from partwise.distributor.build import identify
from partwise.distributor.plan import Member, NeuronShare, Part, Plan, Precision, Stage
from partwise.errors import PlanError
from partwise.model import Model


def share(
    kind: str, *ranges: tuple[int, int], layers: tuple[int, int] | None = None
) -> NeuronShare:
    return NeuronShare(kind=kind, ranges=ranges, layers=layers)


def plan_of(model: Model, first: list[NeuronShare], second: list[NeuronShare]) -> Plan:
    members = (Member(part="p", neurons=tuple(first)), Member(part="q", neurons=tuple(second)))
    stages = (Stage(start=0, stop=7, members=members),)
    return Plan(
        strategy="by hand",
        model=identify(model),
        stages=stages,
        parts=(Part(name="p", server="a"), Part(name="q", server="b")),
        links=(),
        placements=place_parameters(model, stages),
    )


def test_a_kind_may_lie_wholly_on_another_member(model: Model) -> None:
    plan = plan_of(
        model,
        [share("kv_group", (0, 4)), share("mlp_unit")],
        [share("kv_group"), share("mlp_unit", (0, 12))],
    )
    verify_plan(plan, model)
    one, other = (measure_holding(plan, model, part) for part in ("p", "q"))
    assert one.kv_bytes_per_token > 0
    assert other.kv_bytes_per_token == 0
    # The table and the norms are replicated; an MLP is 3 x 12 x 16, attention four times 208.
    replicated = 4 * (30 * 16 + 16 + 4 * 3 * 16)
    assert one.weight_bytes == 4 * 4 * 4 * 200 + replicated
    assert other.weight_bytes == 4 * 4 * 3 * 12 * 16 + replicated


def test_layers_may_share_a_kind_differently(model: Model) -> None:
    early, late = (0, 3), (3, 7)
    plan = plan_of(
        model,
        [share("mlp_unit", (0, 6), layers=early), share("mlp_unit", (0, 1), layers=late)],
        [share("mlp_unit", (6, 12), layers=early), share("mlp_unit", (1, 12), layers=late)],
    )
    verify_plan(plan, model)
    one, other = (measure_holding(plan, model, part).weight_bytes for part in ("p", "q"))
    assert other - one == 4 * 2 * 3 * 16 * (11 - 1)


def test_a_kind_split_in_some_layers_is_replicated_in_the_others(model: Model) -> None:
    plan = plan_of(
        model,
        [share("mlp_unit", (0, 6), layers=(1, 2))],
        [share("mlp_unit", (6, 12), layers=(1, 2))],
    )
    verify_plan(plan, model)
    rules = {p.parameter: p.rule for p in plan.placements}
    assert rules["model.layers.0.mlp.up_proj.weight"] == "owned"
    assert rules["model.layers.1.mlp.up_proj.weight"] == "replicated"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            [share("mlp_unit", (0, 6)), share("kv_group", (0, 4))],
            [share("mlp_unit", (6, 12))],
            "'q' says nothing of kv_group of layers 0:7, which 'p' splits",
        ),
        (
            [share("mlp_unit", (0, 6), layers=(0, 3)), share("mlp_unit", (0, 5), layers=(3, 7))],
            [share("mlp_unit", (6, 12))],
            "mlp_unit 5:6 of layer 3 is owned by nobody",
        ),
        (
            [share("mlp_unit", (0, 6)), share("mlp_unit", (11, 12), layers=(2, 3))],
            [share("mlp_unit", (6, 12))],
            "mlp_unit 11:12 of layer 2 is claimed twice",
        ),
        (
            [share("mlp_unit", (0, 6), layers=(1, 9))],
            [share("mlp_unit", (6, 12))],
            "shared in layers 1:9, out of range: the stage holds layers 0:7",
        ),
        (
            [share("vocabulary_row", (0, 9), layers=(0, 1)), share("vocabulary_row", (0, 8))],
            [share("vocabulary_row", (9, 30), layers=(0, 1)), share("vocabulary_row", (8, 30))],
            "claimed twice",
        ),
        (
            [
                share("vocabulary_row", (0, 9), layers=(0, 1)),
                share("vocabulary_row", (0, 8), layers=(6, 7)),
            ],
            [
                share("vocabulary_row", (9, 30), layers=(0, 1)),
                share("vocabulary_row", (8, 30), layers=(6, 7)),
            ],
            "'lm_head.weight' is tied to 'model.embed_tokens.weight', but layers 0 and 6",
        ),
    ],
)
def test_shares_that_contradict_each_other_are_refused(
    model: Model, first: list[NeuronShare], second: list[NeuronShare], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        verify_plan(plan_of(model, first, second), model)


def test_a_rounded_part_owns_whole_blocks_whatever_its_shares_say(heavy_ends_model: Model) -> None:
    members = (
        Member(part="p", neurons=(share("mlp_unit", (0, 1029)),)),
        Member(part="q", neurons=(share("mlp_unit", (1029, 1536)),)),
    )
    stages = (Stage(start=0, stop=len(heavy_ends_model.layers), members=members),)
    cases: tuple[tuple[Precision, bool], ...] = (("fp32", False), ("int8", True), ("int4", True))
    for precision, is_refused in cases:
        plan = Plan(
            strategy="by hand",
            model=identify(heavy_ends_model),
            stages=stages,
            parts=(
                Part(name="p", server="a", precision=precision),
                Part(name="q", server="b", precision=precision),
            ),
            links=(),
            placements=place_parameters(heavy_ends_model, stages),
        )
        if is_refused:
            with pytest.raises(
                PlanError, match=r"1029 is not a multiple of the granule 32: .*1024"
            ):
                verify_plan(plan, heavy_ends_model)
        else:
            verify_plan(plan, heavy_ends_model)
