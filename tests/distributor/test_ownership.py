"""What a part owns of its layers, counted apart from the package."""

from __future__ import annotations

import pytest
from msgspec import structs

from partwise.distributor import balance_layers, by_ids
from partwise.distributor.ownership import measure_ownership
from partwise.distributor.plan import Plan
from partwise.model import Model
from support.planning import make_problem

# The model of conftest, hidden 16: the weights that belong to one neuron of each kind.
GROUP = 2 * 2 * (16 + 1) + 2 * (2 * 16 + 2) + 16 * 4
UNIT, ROW = 3 * 16, 16


def test_a_part_that_holds_its_layers_whole_owns_all(model: Model) -> None:
    plan = balance_layers(model, ["a", "b", "c"])
    for part in plan.parts:
        owned = measure_ownership(plan, model, part.name)
        assert set(owned.by_kind.values()) <= {1.0}
        assert owned.of_weights == 1


def test_kinds_are_counted_and_weighed(model: Model) -> None:
    plan = split(model, {"kv_group": 1, "mlp_unit": 9, "vocabulary_row": 6})
    first, second = (measure_ownership(plan, model, part) for part in ("part0", "part1"))
    assert first.by_kind == {"vocabulary_row": 6 / 30, "kv_group": 1 / 4, "mlp_unit": 9 / 12}
    blocks = 4 * (1 * GROUP + 9 * UNIT)
    whole = 4 * (4 * GROUP + 12 * UNIT) + 2 * 30 * ROW
    assert first.of_weights == pytest.approx((blocks + 2 * 6 * ROW) / whole)
    assert first.of_weights + second.of_weights == pytest.approx(1)


def test_a_kind_that_is_not_split_is_owned_whole(model: Model) -> None:
    plan = split(model, {"mlp_unit": 3})
    (stage,) = plan.stages
    members = tuple(
        structs.replace(
            member, neurons=tuple(share for share in member.neurons if share.kind == "mlp_unit")
        )
        for member in stage.members
    )
    plan = structs.replace(plan, stages=(structs.replace(stage, members=members),))
    owned = measure_ownership(plan, model, "part1").by_kind
    assert owned == {"vocabulary_row": 1, "kv_group": 1, "mlp_unit": 9 / 12}


def split(model: Model, counts: dict[str, int]) -> Plan:
    """One stage of two members; the first owns ``counts`` neurons of each kind."""
    totals = {kind.name: kind.count for layer in model.layers for kind in layer.neuron_kinds}
    ids = {
        kind: {"s0": f"0:{count}", "s1": f"{count}:{totals[kind]}"}
        for kind, count in counts.items()
    }
    return by_ids.plan(make_problem(model, 2, ids={"*": ids}))
