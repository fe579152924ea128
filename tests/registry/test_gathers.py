"""Gathers feed each need exactly once, and send nothing that its target has."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.errors import PlanError
from partwise.registry.gathers import compile_gathers, list_ids

PARTS = ("a", "b", "c", "d")
NUM_IDS = 24


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Arbitrary owners of every id, one at least, and arbitrary needs."""
    holders = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3, unique=True)
    owners: dict[str, list[int]] = {part: [] for part in draw(st.permutations(PARTS))}
    for number in draw(st.permutations(range(NUM_IDS))):
        for part in draw(holders):
            owners[part].append(number)
    needed = st.lists(st.integers(0, NUM_IDS - 1))
    targets = draw(st.lists(st.sampled_from((*PARTS, "x", "y")), unique=True))
    return owners, {target: draw(needed) for target in targets}


@given(worlds())
def test_each_need_is_fed_exactly_once_by_an_owner_and_nothing_else_travels(world) -> None:
    owners, needs = world
    fed: dict[str, list[int]] = {target: [] for target in needs}
    for (source, target), ids in compile_gathers(owners, needs).items():
        assert source != target
        assert ids.dtype == np.int64
        assert len(ids), "an empty message"
        assert sorted(set(ids.tolist())) == ids.tolist()
        assert set(ids.tolist()) <= set(owners[source])
        fed[target] += ids.tolist()
    for target, ids in fed.items():
        expected = set(needs[target]) - set(owners.get(target, []))
        assert sorted(ids) == sorted(expected)


@given(worlds(), st.randoms())
def test_the_order_of_ids_changes_nothing(world, rng) -> None:
    owners, needs = world
    shuffled = [{k: rng.sample(ids, len(ids)) for k, ids in side.items()} for side in world]
    found, again = compile_gathers(owners, needs), compile_gathers(*shuffled)
    assert found.keys() == again.keys()
    assert all(np.array_equal(ids, again[pair]) for pair, ids in found.items())


def test_ranges_and_arrays_are_ids_too() -> None:
    assert list_ids([(4, 6), (0, 2)]).tolist() == [0, 1, 4, 5]
    assert list_ids(np.array([3, 1, 3], np.int32)).tolist() == [1, 3]
    assert list_ids([]).tolist() == []
    found = compile_gathers({"a": [(0, 4)], "b": [(4, 8)]}, {"b": [(2, 6)], "x": np.arange(8)})
    assert {pair: ids.tolist() for pair, ids in found.items()} == {
        ("a", "b"): [2, 3],
        ("a", "x"): [0, 1, 2, 3],
        ("b", "x"): [4, 5, 6, 7],
    }


def test_of_what_several_have_targets_take_turns() -> None:
    owners = {"a": [(0, 4)], "b": [(0, 4)]}
    found = compile_gathers(owners, {"x": [(0, 4)], "y": [(0, 4)], "z": [(0, 4)]})
    assert list(found) == [("a", "x"), ("b", "y"), ("a", "z")]


def test_a_need_that_nobody_has_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match="part 'x' needs neuron 7, which no part has"):
        compile_gathers({"a": [(0, 7)]}, {"x": [2, 7, 9]})
    with pytest.raises(PlanError, match="part 'x' needs neuron 0"):
        compile_gathers({}, {"x": [0]})


@pytest.mark.quiet
def test_a_layer_of_100_000_neurons_over_128_parts_takes_moments() -> None:
    rng = np.random.default_rng(1)
    at = rng.integers(0, 128, 100_000)
    owners = {f"p{i}": np.flatnonzero(at == i) for i in range(128)}
    needs = {f"p{i}": rng.integers(0, 100_000, 2000) for i in range(128)}
    start_s = time.process_time()
    found = compile_gathers(owners, needs)
    assert time.process_time() - start_s < 1
    assert sum(map(len, found.values())) > 100_000
