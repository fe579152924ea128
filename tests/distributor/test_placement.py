"""Placements of layer-wise, neuron-wise and mixed stages, and what parts then hold."""

from __future__ import annotations

from partwise.distributor import balance_layers, measure_holding, place_parameters
from partwise.distributor.balanced import identify
from partwise.distributor.plan import Link, Member, NeuronShare, Part, Placement, Plan, Stage
from partwise.distributor.verify import verify_plan
from partwise.model import Model

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def share(kind: str, start: int, stop: int) -> NeuronShare:
    return NeuronShare(kind=kind, ranges=((start, stop),))


def member(part: str, groups: tuple[int, int], units: tuple[int, int]) -> Member:
    return Member(part=part, neurons=(share("kv_group", *groups), share("mlp_unit", *units)))


def mixed_plan(model: Model) -> Plan:
    """The embedding alone, the blocks by two members' neurons, norm and head alone."""
    stages = (
        Stage(start=0, stop=1, members=(Member(part="in"),)),
        Stage(start=1, stop=5, members=(member("a", (0, 1), (0, 8)), member("b", (1, 4), (8, 12)))),
        Stage(start=5, stop=7, members=(Member(part="out"),)),
    )
    pairs = [("in", "a"), ("in", "b"), ("a", "out"), ("b", "out")]
    return Plan(
        strategy="by hand",
        model=identify(model),
        stages=stages,
        parts=tuple(Part(name=name, server=f"on-{name}") for name in ("in", "a", "b", "out")),
        links=tuple(Link(source=source, target=target) for source, target in pairs),
        placements=place_parameters(model, stages),
    )


def placed(placements: tuple[Placement, ...]) -> dict[str, Placement]:
    return {placement.parameter: placement for placement in placements}


def test_a_tied_pair_in_one_part_is_owned_and_aliased(model: Model) -> None:
    found = placed(balance_layers(model, ["a"]).placements)
    assert found[TABLE] == Placement(parameter=TABLE, rule="owned", parts=("part0",))
    assert found[HEAD] == Placement(parameter=HEAD, rule="alias", parts=("part0",), of=TABLE)


def test_a_tied_pair_in_two_parts_is_replicated_and_written_by_the_embedding(model: Model) -> None:
    found = placed(balance_layers(model, ["a", "b", "c"]).placements)
    assert found[TABLE] == Placement(
        parameter=TABLE,
        rule="replicated",
        parts=("part0", "part2"),
        writer="part0",
        gradient="sum",
    )
    assert found[HEAD] == Placement(parameter=HEAD, rule="alias", parts=("part2",), of=TABLE)


def test_members_own_split_parameters_and_replicate_the_others(model: Model) -> None:
    plan = mixed_plan(model)
    verify_plan(plan, model)
    found = placed(plan.placements)
    block = "model.layers.2"
    for name in ("self_attn.q_proj.weight", "self_attn.k_proj.bias", "mlp.down_proj.weight"):
        placement = found[f"{block}.{name}"]
        assert (placement.rule, placement.parts) == ("owned", ("a", "b"))
    for name in ("self_attn.o_proj.bias", "input_layernorm.weight"):
        assert found[f"{block}.{name}"] == Placement(
            parameter=f"{block}.{name}",
            rule="replicated",
            parts=("a", "b"),
            writer="a",
            gradient="sum",
        )
    assert found[TABLE].parts == ("in", "out")


def test_a_kind_that_no_member_splits_is_replicated(model: Model) -> None:
    halves = [(0, 6), (6, 12)]
    members = tuple(
        Member(part=f"p{i}", neurons=(share("mlp_unit", *half),)) for i, half in enumerate(halves)
    )
    found = placed(place_parameters(model, [Stage(start=0, stop=7, members=members)]))
    assert found["model.layers.0.mlp.up_proj.weight"].rule == "owned"
    assert found["model.layers.0.self_attn.q_proj.weight"].rule == "replicated"
    assert (found[TABLE].rule, found[TABLE].parts) == ("replicated", ("p0", "p1"))


def test_a_tied_pair_split_by_rows_within_one_stage_is_owned_by_its_members(model: Model) -> None:
    members = tuple(
        Member(part=f"p{i}", neurons=(share("vocabulary_row", 15 * i, 15 * i + 15),))
        for i in (0, 1)
    )
    found = placed(place_parameters(model, [Stage(start=0, stop=7, members=members)]))
    assert (found[TABLE].rule, found[TABLE].parts) == ("owned", ("p0", "p1"))
    assert (found[HEAD].rule, found[HEAD].parts) == ("alias", ("p0", "p1"))


def test_holdings_count_tied_weights_once_within_a_part(model: Model) -> None:
    whole = measure_holding(balance_layers(model, ["a"]), model, "part0")
    assert whole.weight_bytes == 4 * model.num_parameters
    kv = sum(layer.kv_elements_per_token for layer in model.layers)
    assert (kv, whole.kv_bytes_per_token) == (4 * 2 * 4 * 2, 4 * kv)
    reads = sum(layer.read_elements_per_token for layer in model.layers)
    assert whole.read_bytes_per_token == 4 * reads
    plan = balance_layers(model, ["a", "b", "c"])
    parts = [measure_holding(plan, model, f"part{i}") for i in range(3)]
    assert sum(p.weight_bytes for p in parts) == 4 * (model.num_parameters + 30 * 16)
    assert sum(p.kv_bytes_per_token for p in parts) == 4 * kv
    assert sum(p.read_bytes_per_token for p in parts) == 4 * reads


def test_holdings_of_members_are_their_neurons_and_the_replicas(model: Model) -> None:
    plan = mixed_plan(model)
    one, other = (measure_holding(plan, model, part) for part in ("a", "b"))
    # A KV group: q 4 rows, k and v 2 rows, o 4 columns of 16, and 8 elements of biases.
    group, unit, replicas = 12 * 16 + 8, 3 * 16, 3 * 16
    assert one.weight_bytes == 4 * 4 * (group + 8 * unit + replicas)
    assert other.weight_bytes == 4 * 4 * (3 * group + 4 * unit + replicas)
    assert (one.kv_bytes_per_token, other.kv_bytes_per_token) == (4 * 4 * 4, 4 * 4 * 12)


def test_a_tied_table_that_two_stages_use_is_held_whole_by_each_member(model: Model) -> None:
    halves = [(0, 15), (15, 30)]
    members = tuple(
        Member(part=f"p{i}", neurons=(share("vocabulary_row", *rows),))
        for i, rows in enumerate(halves)
    )
    stages = (
        Stage(start=0, stop=1, members=members),
        Stage(start=1, stop=7, members=(Member(part="out"),)),
    )
    plan = Plan(
        strategy="by hand",
        model=identify(model),
        stages=stages,
        parts=tuple(Part(name=name, server=name) for name in ("p0", "p1", "out")),
        links=(Link(source="p0", target="out"), Link(source="p1", target="out")),
        placements=place_parameters(model, stages),
    )
    verify_plan(plan, model)
    assert placed(plan.placements)[TABLE].parts == ("p0", "p1", "out")
    for part in ("p0", "p1"):
        assert measure_holding(plan, model, part).weight_bytes == 4 * 30 * 16
