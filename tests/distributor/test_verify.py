"""Each way in which a plan can be wrong is refused, and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from partwise.distributor import balance_layers, decode_plan, encode_plan, verify_plan
from partwise.distributor.balanced import identify
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Member, NeuronShare, Part, Plan, Stage
from partwise.errors import PlanError
from partwise.model import Model

Tree = dict[str, Any]
Change = Callable[[Tree], Any]


def corrupt(plan: Plan, change: Change) -> Plan:
    """``plan`` with ``change`` made to its JSON."""
    tree = json.loads(encode_plan(plan))
    change(tree)
    return decode_plan(json.dumps(tree).encode())


def stage(index: int, **fields: Any) -> Change:
    return lambda tree: tree["stages"][index].update(fields)


def placement(name: str, **fields: Any) -> Change:
    return lambda tree: next(p for p in tree["placements"] if p["parameter"] == name).update(fields)


def link(source: str, target: str) -> Change:
    return lambda tree: tree["links"].append({"source": source, "target": target})


HEAD, TABLE, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t["parts"][1].update(mlp_sparsity=0.95),
            "'part1' lacks 0.95 of its MLP units, out",
        ),
        (lambda t: t["parts"][1].update(mlp_sparsity=-0.1), "'part1' lacks -0.1 of its MLP units"),
        (lambda t: t["model"].update(num_layers=8), "says that tiny has 8 layers, it has 7"),
        (stage(1, start=3), r"gap: no stage holds layers 2:3 \(blocks 1:2\)"),
        (stage(0, start=1), r"gap: no stage holds layers 0:1 \(embedding\)"),
        (stage(2, stop=6), r"gap: no stage holds layers 6:7 \(head\)"),
        (lambda t: t["stages"].clear(), "gap: no stage holds layers 0:7"),
        (stage(1, start=1), "stage 1 holds layers 1:4, which overlaps .* end at layer 2"),
        (stage(2, stop=8), "stage 2 holds layers 4:8, out of range: tiny has layers 0:7"),
        (stage(0, start=-1), "stage 0 holds layers -1:2, out of range"),
        (stage(1, stop=2), "stage 1 holds layers 2:2, out of range"),
        (stage(1, members=[]), r"stage 1 \(layers 2:4\) has no member"),
        (stage(1, members=[{"part": "part0"}]), "part 'part0' is a member of 2 stages"),
        (stage(1, members=[{"part": "partX"}]), "'partX', which is not a part .*part0, part1"),
        (
            lambda t: t["parts"].append({"name": "spare", "server": "d"}),
            "part 'spare' is a member of no stage",
        ),
        (lambda t: t["parts"].append(t["parts"][1]), "lists part 'part1' twice"),
        (
            lambda t: t["parts"][1].update(server="nowhere"),
            "'part1' is on the unknown server 'nowhere': known are a, b, c",
        ),
        (
            lambda t: t["parts"][2].update(server="a"),
            "parts 'part0' and 'part2' are both on server 'a'",
        ),
        (lambda t: t["links"].pop(), "no link from 'part1' to 'part2'"),
        (link("part0", "part2"), "link from 'part0' to 'part2' joins parts that are not"),
        (link("part1", "part0"), "link from 'part1' to 'part0' joins parts that are not"),
        (link("part0", "part1"), "link from 'part0' to 'part1' is listed twice"),
        (link("part0", "ghost"), "link from 'part0' to 'ghost' joins"),
        (lambda t: t["placements"].pop(3), "'model.layers.0.*' is not placed, expected owned"),
        (
            lambda t: t["placements"].append(t["placements"][3]),
            "'model.layers.0.*' is placed twice",
        ),
        (placement(NORM, parameter="extra"), f"'{NORM}' is not placed"),
        (
            lambda t: t["placements"].append(
                {"parameter": "x", "rule": "owned", "parts": ["part0"]}
            ),
            "places 'x', which is no parameter of tiny",
        ),
        (
            placement(NORM, parts=["part1"]),
            f"'{NORM}' is owned by part1, .*expected owned by part2",
        ),
        (placement(NORM, parts=["part2", "part1"]), f"'{NORM}' is owned by part2, part1"),
        (placement(TABLE, writer="part2"), rf"'{TABLE}' is .*part0, part2 \(writer part2\)"),
        (placement(TABLE, gradient="owner"), f"'{TABLE}' is .*gradient owner, expected .*sum"),
        (
            placement(TABLE, rule="owned"),
            f"'{TABLE}' is owned by part0, part2 .*expected replicated",
        ),
        (placement(HEAD, of=NORM), f"'{HEAD}' is alias by part2 of {NORM}, .*expected .*{TABLE}"),
    ],
)
def test_a_corrupted_plan_is_refused(model: Model, change: Change, message: str) -> None:
    servers = ["a", "b", "c"]
    plan = balance_layers(model, servers)
    assert [(s.start, s.stop) for s in plan.stages] == [(0, 2), (2, 4), (4, 7)]
    with pytest.raises(PlanError, match=message):
        verify_plan(corrupt(plan, change), model, servers)


def test_stages_out_of_order_are_refused(model: Model) -> None:
    plan = corrupt(balance_layers(model, ["a", "b"]), lambda tree: tree["stages"].reverse())
    with pytest.raises(PlanError, match="gap: no stage holds layers 0:"):
        verify_plan(plan, model)


def test_a_plan_for_another_model_names_both(model: Model) -> None:
    other = replace(model, name="other", context_tokens=9)
    with pytest.raises(PlanError, match=r"another model: tiny .*given is other") as caught:
        verify_plan(balance_layers(model, ["a"]), other)
    assert model.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)


def test_a_model_in_a_renamed_directory_is_the_same_model(model: Model) -> None:
    verify_plan(balance_layers(model, ["a", "b"]), replace(model, name="renamed"))


def test_servers_are_not_judged_where_none_are_given(model: Model) -> None:
    verify_plan(balance_layers(model, ["anywhere"]), model)


def split_plan(model: Model, first: list[NeuronShare], second: list[NeuronShare]) -> Plan:
    """One stage of two members."""
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


def units(*ranges: tuple[int, int], granule: int = 1, kind: str = "mlp_unit") -> NeuronShare:
    return NeuronShare(kind=kind, ranges=ranges, granule=granule)


def test_interleaved_neurons_with_granules_are_a_valid_plan(model: Model) -> None:
    verify_plan(split_plan(model, [units((0, 2), (10, 12), granule=2)], [units((2, 10))]), model)
    # The count need not be a multiple of the granule.
    verify_plan(split_plan(model, [units((0, 5), granule=5)], [units((5, 12), granule=5)]), model)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (units((0, 6)), units((6, 11)), "mlp_unit 11:12 of layers 0:7 is owned by nobody"),
        (units((0, 5)), units((6, 12)), "mlp_unit 5:6 of layers 0:7 is owned by nobody"),
        (units((1, 6)), units((6, 12)), "mlp_unit 0:1 of layers 0:7 is owned by nobody"),
        (units((0, 7)), units((6, 12)), "mlp_unit 6:7 .* claimed twice, by 'p' and 'q'"),
        (units((0, 12)), units((3, 5)), "mlp_unit 3:5 .* claimed twice, by 'p' and 'q'"),
        (units((0, 6)), units((6, 13)), "'q' owns mlp_unit 6:13, out of range: there are 0:12"),
        (units((-1, 6)), units((6, 12)), "'p' owns mlp_unit -1:6, out of range"),
        (units((0, 6)), units((6, 6), (6, 12)), "'q' owns mlp_unit 6:6, out of range"),
        (units((3, 6), (0, 3)), units((6, 12)), "'p' owns mlp_unit 0:3 after .* ends at 6"),
        (units((0, 6), (5, 7)), units((7, 12)), "'p' owns mlp_unit 5:7 after .* ends at 6"),
        (
            units((0, 5), granule=4),
            units((5, 12)),
            "5 is not a multiple of the granule 4: .* is 4$",
        ),
        (
            units((0, 7), granule=4),
            units((7, 12)),
            "7 is not a multiple of the granule 4: .* is 8$",
        ),
        (units((0, 11), granule=9), units((11, 12)), "granule 9: the nearest that fits is 12$"),
        (units((0, 6), granule=0), units((6, 12)), "granule of 0, expected at least 1"),
        (
            units((0, 6), kind="expert"),
            units((6, 12), kind="expert"),
            "unknown neuron kind 'expert': .* are kv_group, mlp_unit, vocabulary_row",
        ),
    ],
)
def test_neurons_that_do_not_tile_are_refused(
    model: Model, first: NeuronShare, second: NeuronShare, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        verify_plan(split_plan(model, [first], [second]), model)


def test_two_members_that_both_hold_whole_layers_are_refused(model: Model) -> None:
    with pytest.raises(PlanError, match="part 'p' owns all neurons of layers 0:7"):
        verify_plan(split_plan(model, [], [units((0, 12))]), model)
