"""What a token uses of a mixture of experts, counted apart from the package and by routing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from partwise.distributor import measure_holding
from partwise.distributor.buffers import read_block
from partwise.distributor.build import build_plan
from partwise.distributor.footprint import find_owned, measure_loads
from partwise.distributor.load import measure_layer
from partwise.distributor.member_shares import find_granules, share_layer
from partwise.distributor.ownership import measure_ownership
from partwise.distributor.plan import Member, NeuronShare, Plan, Stage
from partwise.distributor.reduction import list_reductions
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible, PlanError
from partwise.model import Model
from support.planning import make_problem

# The mixture of conftest: hidden 16, 2 KV groups of 2 heads of 4, 4 experts of 6 units.
ATTENTION, EXPERT, ROUTER, NORMS = 2 * 16 * 16 + 2 * 8 * 16, 3 * 6 * 16, 4 * 16, 2 * 16
WORKLOAD = Workload(context_tokens=16)


def share(kind: str, *ids: int) -> NeuronShare:
    return NeuronShare(kind=kind, ranges=tuple((i, i + 1) for i in sorted(ids)))


def split(model: Model, *owned: tuple[list[int], list[int]]) -> Plan:
    """The blocks by members that own these KV groups and experts; the rest is one part's."""
    names = [f"part{i}" for i in range(len(owned) + 1)]
    members = tuple(
        Member(part=name, neurons=(share("kv_group", *groups), share("expert", *experts)))
        for name, (groups, experts) in zip(names[1:], owned, strict=True)
    )
    ends = Stage(start=0, stop=1, members=(Member(part=names[0]),))
    blocks = Stage(start=1, stop=5, members=members)
    problem = make_problem(model, len(names))
    return build_plan(problem, "test", (ends, blocks), list(problem.servers))


def test_a_token_reads_and_multiplies_with_the_experts_that_it_chooses(mixture: Model) -> None:
    block = mixture.layers[1]
    assert block.num_elements == ATTENTION + 4 * EXPERT + ROUTER + NORMS
    assert block.read_elements_per_token == ATTENTION + 2 * EXPERT + ROUTER + NORMS
    assert block.macs_per_token == ATTENTION + 2 * EXPERT + ROUTER
    load = measure_layer(block)
    assert load.weight_elements == block.num_elements
    past_bytes = 4 * 2 * 8 * 8
    assert load.read_bytes(WORKLOAD, 1) == 4 * block.read_elements_per_token + past_bytes
    # Ever other experts are chosen: to stay in cache, all have to.
    assert load.working_set_bytes(WORKLOAD) == 4 * block.num_elements + past_bytes
    assert load.macs_per_row == block.macs_per_token


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 100])
def test_experts_that_several_rows_choose_are_read_once(rows: int, mixture: Model) -> None:
    rng = np.random.default_rng(rows)
    chosen = rng.random((4000, rows, 4)).argsort(axis=-1)[..., :2].reshape(4000, -1)
    num_distinct = np.mean([len(set(numbers)) for numbers in chosen.tolist()])
    load = measure_layer(mixture.layers[1])
    read = load.read_bytes(WORKLOAD, rows) - rows * 4 * 2 * 8 * 8
    expected = 4 * (ATTENTION + ROUTER + NORMS + num_distinct * EXPERT)
    assert read == pytest.approx(expected, rel=0.01)


def test_members_hold_their_experts_and_read_their_share_of_those_chosen(mixture: Model) -> None:
    # One has all of attention and the experts 1 and 3, the other nothing but the experts 0 and 2.
    plan = split(mixture, ([0, 1], [1, 3]), ([], [0, 2]))
    ends = 16 + 30 * 16
    for name, attention in (("part1", ATTENTION), ("part2", 0)):
        holding = measure_holding(plan, mixture, name)
        every = 2 * (attention + ROUTER + NORMS) + ends
        assert holding.weight_bytes == 4 * (every + 2 * 2 * EXPERT)
        # What is replicated besides the attention counts in proportion, with it.
        assert holding.read_bytes_per_token == pytest.approx(4 * (every + 2 * EXPERT), rel=0.01)
        (member,) = (m for m in plan.stages[1].members if m.part == name)
        load = measure_loads(mixture, range(1, 5), member, find_owned(plan))[0]
        assert load.weight_elements == attention + ROUTER + NORMS + 2 * EXPERT
        assert load.macs_per_row == pytest.approx(attention + ROUTER + EXPERT, rel=0.1)


def test_a_member_without_experts_reads_none(mixture: Model) -> None:
    plan = split(mixture, ([0, 1], []), ([], [0, 1, 2, 3]))
    block = mixture.layers[1]
    first, second = (
        measure_loads(mixture, range(1, 2), member, find_owned(plan))[0]
        for member in plan.stages[1].members
    )
    assert (first.choice_elements, second.choice_elements) == (0, 4 * EXPERT)
    assert (first.mlp_width, second.mlp_width) == (0, 2 * 6)
    assert first.macs_per_row + second.macs_per_row >= block.macs_per_token
    assert measure_ownership(plan, mixture, "part1").by_kind["expert"] == 0


def test_a_block_of_experts_has_the_buffers_of_those_that_a_token_chooses(mixture: Model) -> None:
    sizes = read_block(mixture.layers[1], measure_layer(mixture.layers[1]), 16, (8, 0))
    assert (sizes.mlp, sizes.is_gated, sizes.heads, sizes.kv_heads) == (12, True, 4, 2)


def test_experts_are_shared_out_whole(mixture: Model) -> None:
    # Blocks of int4 are never cut between experts, wide or not.
    assert "expert" not in find_granules(mixture, "int4", {})
    owned = [dict(own) for own in share_layer(mixture.layers[1], [3, 1], {})]
    assert sum(own["expert"] for own in owned) == 4


def test_the_mlp_of_a_mixture_is_its_experts(mixture: Model) -> None:
    problem = make_problem(mixture, 2, types={"attention": "s0", "mlp": "s1"})
    plan = STRATEGIES["type"].plan(problem)
    kinds = {
        plan.part(member.part).server: {s.kind for s in member.neurons if s.ranges}
        for stage in plan.stages
        for member in stage.members
        if member.neurons
    }
    assert "kv_group" in kinds["s0"]
    assert "expert" in kinds["s1"]
    assert not {"kv_group", "expert"} <= kinds["s0"]


def test_a_mixture_has_no_units_to_lose(mixture: Model, model: Model) -> None:
    for of, num_reductions in ((mixture, 0), (model, 9)):
        problem = replace(make_problem(of, 1), allow=frozenset({"sparse"}))
        assert len(list(list_reductions(problem))) == num_reductions


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"s0": "0:2", "s1": "3"}, "expert 2:3 of model.layers.0 is owned by nobody"),
        ({"s0": "0:3", "s1": "2:4"}, "expert 2:3 of model.layers.0 is claimed twice, by 's0' and"),
        ({"s0": "0:2", "s1": "2:5"}, "there are 0:4"),
    ],
)
def test_experts_that_are_not_owned_once_each_are_refused(
    ids: dict[str, str], message: str, mixture: Model
) -> None:
    with pytest.raises(PlanError, match=message):
        STRATEGIES["ids"].plan(make_problem(mixture, 2, ids={"*": {"expert": ids}}))


def test_more_members_than_experts_are_refused(mixture: Model) -> None:
    types = {"attention": "s0", "mlp": [f"s{i}" for i in range(5)]}
    problem = make_problem(mixture, 5, types=types)
    with pytest.raises(Infeasible, match="5 servers are more than the 4 granules of expert"):
        STRATEGIES["type"].plan(problem)
