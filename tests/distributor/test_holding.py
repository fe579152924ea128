"""What a part holds, in bytes."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from partwise.distributor import balance_layers, measure_holding
from partwise.distributor.build import build_plan
from partwise.distributor.footprint import part_footprint
from partwise.distributor.holding import keep_units
from partwise.distributor.plan import Member, NeuronShare, Plan, Precision, Stage
from partwise.distributor.workload import ELEMENT_BYTES, Workload
from partwise.model import Model
from support.planning import make_problem


def reduce(plan: Plan, /, **changes: Any) -> Plan:
    """The plan with all its parts changed."""
    parts = tuple(msgspec.structs.replace(part, **changes) for part in plan.parts)
    return msgspec.structs.replace(plan, parts=parts)


def test_a_workload_and_a_plan_know_the_same_precisions() -> None:
    assert set(get_args(Precision)) == set(ELEMENT_BYTES)


def test_weights_of_a_fraction_of_a_byte_are_rounded_once(model: Model) -> None:
    plan = balance_layers(model, ["a"])
    whole = measure_holding(plan, model, "part0")
    less = measure_holding(reduce(plan, precision="int4"), model, "part0")
    assert less.weight_bytes == whole.weight_bytes * 9 // 64 > 0
    assert less.read_bytes_per_token == whole.read_bytes_per_token * 9 // 64 > 0
    assert less.kv_bytes_per_token == whole.kv_bytes_per_token
    assert all(isinstance(n, int) for n in (less.weight_bytes, less.read_bytes_per_token))


def test_removed_units_are_held_and_read_by_nobody(model: Model) -> None:
    # 4 blocks of 12 units, each a row of gate and up and a column of down, 16 wide.
    for sparsity, removed in ((0.0, 0), (0.5, 6), (0.9, 10), (0.25, 3), (0.08, 0)):
        plan = balance_layers(model, ["a"])
        whole = measure_holding(plan, model, "part0")
        sparse = measure_holding(reduce(plan, mlp_sparsity=sparsity), model, "part0")
        assert whole.weight_bytes - sparse.weight_bytes == 4 * 4 * 3 * 16 * removed
        assert whole.read_bytes_per_token - sparse.read_bytes_per_token == 4 * 4 * 48 * removed
        assert sparse.kv_bytes_per_token == whole.kv_bytes_per_token


def test_shares_are_removed_as_they_are_written() -> None:
    assert [keep_units(100, share) for share in (0.29, 0.57, 0.58)] == [71, 43, 42]


def split_blocks(model: Model, kind: str, at: int, count: int) -> Plan:
    """All layers by two members, of which the first owns ``at`` neurons of one kind."""
    shares = [NeuronShare(kind=kind, ranges=(r,)) for r in ((0, at), (at, count))]
    members = tuple(Member(part=f"part{i}", neurons=(s,)) for i, s in enumerate(shares))
    stage = Stage(start=0, stop=len(model.layers), members=members)
    return build_plan(make_problem(model, 2), "test", (stage,), ["s0", "s1"])


def test_each_member_loses_the_share_of_its_own_units(model: Model) -> None:
    # Of 12 units the first owns 8; where they are not split both hold all.
    for split, removed in ((("mlp_unit", 8, 12), (4, 2)), (("kv_group", 1, 4), (6, 6))):
        plan = split_blocks(model, *split)
        sparse = reduce(plan, mlp_sparsity=0.5)
        for part, units in zip(("part0", "part1"), removed, strict=True):
            before, after = (measure_holding(p, model, part) for p in (plan, sparse))
            assert before.weight_bytes - after.weight_bytes == 4 * 4 * 48 * units
            kept = part_footprint(sparse, model, part, Workload())
            assert kept.weight_bytes == after.weight_bytes
