"""Routes of all parts fit together, and the bytes that follow from them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.distributor.exchange import count_exchanges
from partwise.distributor.plan import Plan
from partwise.distributor.workload import Workload
from partwise.errors import PlanError
from partwise.model import LayerKind, Model
from partwise.registry.routes import ExchangeCall, Routes, compile_routes
from support.plans import random_plan

SEEDS = st.integers(0, 1 << 30)
CODEC_BYTES = {"fp32": 64, "bf16": 32, "fp16": 32, "int8": 16 + 28}


def compile_all(plan: Plan, model: Model) -> dict[str, Routes]:
    return {part.name: compile_routes(plan, model, part.name) for part in plan.parts}


@given(SEEDS)
def test_what_one_part_sends_another_expects_and_each_is_fed_once(model: Model, seed: int) -> None:
    plan = random_plan(random.Random(seed), model)
    routes = compile_all(plan, model)
    codecs = {(link.source, link.target): link.codec for link in plan.links}
    fed = Counter(leg.part for route in routes.values() for leg in route.targets)
    for i, stage in enumerate(plan.stages):
        names = tuple(member.part for member in stage.members)
        for index, name in enumerate(names):
            route = routes[name]
            assert (route.members, route.index) == (names, index)
            assert route.fellows == tuple(other for other in names if other != name)
            assert fed[name] == (i > 0)
            if i == 0:
                assert route.source is None
                assert route.received_hop_bytes(3) == 3 * 8
                continue
            sender = routes[route.source.part]
            assert route.source.codec == codecs[sender.part, name]
            assert route.source.token_bytes == CODEC_BYTES[route.source.codec]
            (leg,) = (leg for leg in sender.targets if leg.part == name)
            assert (leg.codec, leg.token_bytes) == (route.source.codec, route.source.token_bytes)
            assert route.received_hop_bytes(3) == 3 * leg.token_bytes
    for route in routes.values():
        assert route.sent_hop_bytes(5) == 5 * sum(CODEC_BYTES[leg.codec] for leg in route.targets)


@given(SEEDS)
def test_one_part_speaks_for_the_last_stage_to_every_part_of_the_first(
    model: Model, seed: int
) -> None:
    plan = random_plan(random.Random(seed), model)
    routes = compile_all(plan, model)
    (leader,) = (route for route in routes.values() if route.is_leader)
    assert leader.part == plan.stages[-1].members[0].part
    first = [member.part for member in plan.stages[0].members]
    assert list(leader.picks_for) == [name for name in first if name != leader.part]
    assert all(not r.picks_for for r in routes.values() if r is not leader)


@given(SEEDS, st.integers(0, 9), st.integers(0, 9))
def test_members_exchange_what_they_split_in_the_same_order(
    model: Model, seed: int, num_tokens: int, num_picks: int
) -> None:
    plan = random_plan(random.Random(seed), model)
    routes = compile_all(plan, model)
    for stage in plan.stages:
        ours = [routes[member.part] for member in stage.members]
        assert len({route.exchanges for route in ours}) == 1
        calls, n = ours[0].exchanges, len(ours)
        if n == 1:
            assert calls == ()
            continue
        split = [
            (i, kind.name)
            for i in range(stage.start, stage.stop)
            for kind in model.layers[i].neuron_kinds
            if any(s.kind == kind.name and s.is_about(i) for m in stage.members for s in m.neurons)
        ]
        assert [(call.layer, call.kind) for call in calls] == split
        for call in calls:
            is_head = model.layers[call.layer].kind is LayerKind.HEAD
            assert (call.method, call.row_bytes) == (("gather", 16) if is_head else ("sum", 64))
            counted = count_exchanges(model.layers[call.layer].kind, Workload())
            assert counted == ((0, 1) if is_head else (1, 0))
        num_sums = sum(call.method == "sum" for call in calls)
        # Two send each other all; more send each value to its owner, and back to all others.
        sum_bytes = 64 * num_tokens * (2 if n == 2 else 2 * (n - 1))
        gather_bytes = 16 * num_picks * n * (n - 1)
        total = sum(route.exchanged_bytes(num_tokens, num_picks) for route in ours)
        assert total == num_sums * sum_bytes + (len(calls) - num_sums) * gather_bytes


def test_pieces_of_a_sum_differ_by_one_value() -> None:
    call = ExchangeCall(layer=1, kind="mlp_unit", method="sum", row_bytes=4 * 7)
    # 7 values over 3 members are pieces of 2, 2 and 3: sent are the others', then the own twice.
    assert [call.sent_bytes(1, 3, i) for i in range(3)] == [4 * (5 + 4), 4 * (5 + 4), 4 * (4 + 6)]


def test_a_part_that_the_plan_does_not_have_is_refused(model: Model) -> None:
    with pytest.raises(PlanError, match="'part9' is a member of no stage"):
        compile_routes(random_plan(random.Random(1), model), model, "part9")
