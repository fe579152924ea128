"""Neurons of members: all owned once, in proportion, in whole granules."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.distributor.layer_classes import LayerClasses
from partwise.distributor.member_shares import (
    cap_weights,
    find_granules,
    share_classes,
    share_layer,
)
from partwise.model import Model
from support.large import describe_llama

LLAMA = describe_llama(num_blocks=2, hidden=512, inner=2048, heads=8, kv_heads=8, vocabulary=1000)


@pytest.mark.parametrize("seed", range(20))
def test_members_own_every_neuron_once(
    seed: int, make_synthetic: Callable[[random.Random], Any]
) -> None:
    rng = random.Random(seed)
    classes = LayerClasses(make_synthetic(rng).model)
    weights = [rng.choice([0.001, 1.0, 3.0]) for _ in range(rng.randint(1, 6))]
    for layer, members in zip(classes.layers, share_classes(classes, weights, {}, 3), strict=True):
        assert len(members) == len(weights)
        for kind in layer.neuron_kinds:
            assert sum(dict(owned)[kind.name] for owned in members) == kind.count


def test_units_make_up_for_the_rounding_of_groups() -> None:
    block = LLAMA.layers[1]
    # 8 groups for 3 members: two get 3. A group is 4 x 64 x 512 elements, a unit 3 x 512.
    one, two, three = (dict(owned) for owned in share_layer(block, [1, 1, 1], {}))
    assert sorted([one["kv_group"], two["kv_group"], three["kv_group"]]) == [2, 3, 3]
    held = [n["kv_group"] * 4 * 64 * 512 + n["mlp_unit"] * 3 * 512 for n in (one, two, three)]
    assert max(held) - min(held) <= 3 * 512


def test_the_past_counts_with_the_groups_that_keep_it() -> None:
    block = LLAMA.layers[1]
    first, second = (dict(owned) for owned in share_layer(block, [2, 1], {}, 100))
    # 5 of 8 groups: less than two thirds, made up for by units; 128 elements of past a group.
    assert (first["kv_group"], second["kv_group"]) == (5, 3)
    group, unit = 4 * 64 * 512 + 100 * 128, 3 * 512
    held = [n["kv_group"] * group + n["mlp_unit"] * unit for n in (first, second)]
    assert held[0] == pytest.approx(2 * held[1], rel=0.01)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rounded_weights_keep_their_blocks_whole(precision: str, model: Model) -> None:
    assert find_granules(LLAMA, "fp32", {"mlp_unit": 3}) == {"mlp_unit": 3}
    # A group of 64 queries is two blocks wide, a unit one weight.
    granules = find_granules(LLAMA, precision, {"mlp_unit": 3})
    assert granules == {"mlp_unit": 96, "kv_group": 1}, "rows of a table are outputs"
    # In the model of conftest a group is 4 queries wide where it is an input.
    assert find_granules(model, precision, {})["kv_group"] == 8
    for owned in share_layer(LLAMA.layers[1], [5, 2, 1], granules):
        assert dict(owned)["mlp_unit"] % 96 in {0, 2048 % 96}


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 2)), min_size=1, max_size=6))
def test_capped_weights_fill_what_room_there_is_and_no_more(
    pairs: list[tuple[float, float]],
) -> None:
    weights, room = [w for w, _ in pairs], [r for _, r in pairs]
    capped = cap_weights(weights, room)
    assert all(c <= r for c, r in zip(capped, room, strict=True))
    assert sum(capped) == pytest.approx(min(1.0, sum(room)), abs=1e-9)
    free = [c / w for c, w, r in zip(capped, weights, room, strict=True) if c < r]
    if free:
        assert free == pytest.approx([max(free)] * len(free))
        assert all(c / w <= max(free) + 1e-9 for c, w in zip(capped, weights, strict=True))
