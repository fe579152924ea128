"""Connectivity: what it sends, what it saves on sparse layers, and that dense ones gain nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from partwise.distributor import hypergraph, verify_plan
from partwise.distributor.connectivity import own_by_count, plan
from partwise.distributor.hypergraph import count_sent
from partwise.distributor.plan import Plan
from partwise.errors import Infeasible, PlanError
from partwise.model import Model
from support.planning import make_problem
from support.sparse import Mask, chain_model, shuffled_blocks

NUM_BLOCKS = 8


def name_masks(masks: list[Mask]) -> dict[str, Mask]:
    return {f"linear.{i}.weight": mask for i, mask in enumerate(masks)}


def plan_chain(masks: list[Mask], num_servers: int, **options: Any) -> tuple[Model, Plan]:
    model = chain_model([masks[0].shape[1], *(len(mask) for mask in masks)])
    problem = make_problem(model, num_servers, masks=name_masks(masks), **options)
    found = plan(problem)
    verify_plan(found, model, problem.servers)
    return model, found


def read_owners(found: Plan, masks: list[Mask]) -> list[list[str]]:
    """The part that owns each output of each layer, from the plan's ranges."""
    owners = [[""] * len(mask) for mask in masks]
    for member in found.stages[0].members:
        for share in member.neurons:
            for i in range(len(masks)):
                for start, stop in share.ranges if share.is_about(i) else ():
                    owners[i][start:stop] = [member.part] * (stop - start)
    return owners


def count_by_hand(masks: list[Mask], owners: list[list[str]]) -> int:
    """For each neuron, the other parts of which one reads it."""
    num_sent = 0
    for i, (_, reading) in enumerate(pairwise(masks)):
        for neuron, own in enumerate(owners[i]):
            readers = {owners[i + 1][reader] for reader in np.flatnonzero(reading[:, neuron])}
            num_sent += len(readers - {own})
    return num_sent


def test_shuffled_blocks_send_five_times_fewer_activations_than_count() -> None:
    masks = shuffled_blocks(6, NUM_BLOCKS, 8, share_across=0.1, seed=0)
    _, found = plan_chain(masks, NUM_BLOCKS)
    assert found.strategy == "connectivity"
    num_sent = count_by_hand(masks, read_owners(found, masks))
    by_count = own_by_count(masks, NUM_BLOCKS)
    num_by_count = count_by_hand(masks, [[str(part) for part in row] for row in by_count])
    assert count_sent(masks, by_count, NUM_BLOCKS) == num_by_count
    assert num_by_count >= 5 * num_sent
    assert found.notes[0] == (
        f"a pass sends {num_sent} activations a row, by count it would be {num_by_count}"
    )
    largest = max(
        sum(int(n) for n, own in zip(mask.sum(axis=1), row, strict=True) if own == part)
        / int(mask.sum())
        for mask, row in zip(masks, read_owners(found, masks), strict=True)
        for part in set(row)
    )
    assert found.notes[1] == (
        f"the fullest server holds {100 * largest:.0f} % of a layer's weights, even is 12 %"
    )


def test_parts_hold_about_equally_many_weights() -> None:
    masks = shuffled_blocks(6, NUM_BLOCKS, 8, share_across=0.1, seed=1)
    _, found = plan_chain(masks, NUM_BLOCKS, imbalance=0.05)
    owners = read_owners(found, masks)
    weights: dict[str, int] = {}
    for mask, row in zip(masks, owners, strict=True):
        for part, num_weights in zip(row, mask.sum(axis=1), strict=True):
            weights[part] = weights.get(part, 0) + int(num_weights)
    assert len(weights) == NUM_BLOCKS
    assert max(weights.values()) <= 1.05 * -(-sum(weights.values()) // NUM_BLOCKS)


def test_the_same_seed_gives_the_same_plan() -> None:
    masks = shuffled_blocks(4, 4, 8, share_across=0.1, seed=2)
    assert plan_chain(masks, 4, seed=7)[1] == plan_chain(masks, 4, seed=7)[1]


def test_blocks_without_weights_across_send_nothing() -> None:
    masks = shuffled_blocks(3, 4, 8, share_across=0.0, seed=3)
    _, found = plan_chain(masks, 4)
    assert count_by_hand(masks, read_owners(found, masks)) == 0


@pytest.mark.parametrize(
    ("masks", "reason"),
    [
        ([np.ones((8, 8), dtype=bool)] * 3, "every weight is non-zero"),
        ([np.eye(8, dtype=bool)], "the best cut found sends 0 activations, count 0"),
    ],
)
def test_dense_layers_gain_nothing_and_are_shared_by_count(masks: list[Mask], reason: str) -> None:
    _, found = plan_chain(masks, 2)
    assert found.strategy == "count"
    assert found.notes[0].startswith(f"nothing is to be gained by connectivity: {reason}")
    assert found.notes[0].endswith("; the neurons are shared by count")


def test_a_cut_no_better_than_count_falls_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [np.ones((8, 8), dtype=bool) for _ in range(3)]
    masks[0][0, 0] = False
    # What the partitioner would do at worst: the neurons of each layer as count has them.
    monkeypatch.setattr(hypergraph, "cut_neurons", lambda masks, k, **_: own_by_count(masks, k))
    _, found = plan_chain(masks, 2)
    assert found.strategy == "count"
    assert "the best cut found sends 16 activations, count 16" in found.notes[0]


def test_a_model_without_masks_counts_as_dense(model: Model) -> None:
    found = plan(make_problem(model, 2))
    assert found.strategy == "count"
    assert "no masks are given, so every layer counts as dense" in found.notes[0]


def test_one_server_sends_nothing() -> None:
    _, found = plan_chain(shuffled_blocks(2, 2, 4, share_across=0.1, seed=4), 1)
    assert "there is one server" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear.1.weight": np.ones((8, 7), dtype=bool)}, r"has shape \(8, 7\), the parameter"),
        ({"lm_head.weight": np.ones((8, 8), dtype=bool)}, "'lm_head.weight', no parameter of ch"),
        ({"linear.1.weight": None}, "there is no mask for 'linear.1.weight'"),
    ],
)
def test_masks_that_do_not_fit_are_refused(change: Mapping[str, Any], message: str) -> None:
    masks = name_masks(shuffled_blocks(2, 2, 4, share_across=0.1, seed=5)) | dict(change)
    given = {name: mask for name, mask in masks.items() if mask is not None}
    with pytest.raises(PlanError, match=message):
        plan(make_problem(chain_model([8, 8, 8]), 2, masks=given))


def test_a_model_that_is_no_chain_is_refused(model: Model) -> None:
    given = {"model.embed_tokens.weight": np.zeros((30, 16), dtype=bool)}
    with pytest.raises(PlanError, match=r"model.layers.0 has 7 weight matrices .* follows a chain"):
        plan(make_problem(model, 2, masks=given))


def test_more_servers_than_neurons_are_infeasible() -> None:
    masks = shuffled_blocks(1, 2, 2, share_across=0.0, seed=0)
    with pytest.raises(Infeasible, match="5 servers are more than the 4 neurons of chain"):
        plan_chain(masks, 5)


def test_a_missing_partitioner_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hypergraph._start_partitioner.cache_clear()
    monkeypatch.setitem(sys.modules, "mtkahypar", None)
    with pytest.raises(PlanError, match=r"not installed: run `pip install 'partwise\[conn"):
        plan_chain(shuffled_blocks(2, 2, 4, share_across=0.1, seed=6), 2)
    hypergraph._start_partitioner.cache_clear()


def test_where_count_is_infeasible_too_nothing_to_be_gained_is_still_said() -> None:
    masks = [np.ones((2, 2), dtype=bool)] * 2
    with pytest.raises(Infeasible, match=r"nothing is to be gained .* by count, but 3 servers are"):
        plan_chain(masks, 3)


@pytest.mark.parametrize("width", [64, 40])
def test_int4_cuts_a_sparse_chain_between_any_outputs(width: int) -> None:
    block = np.ones((width, width), dtype=bool)
    masks = [np.kron(mask, block) for mask in shuffled_blocks(4, 4, 4, 0.0, 0)]
    problem = make_problem(chain_model([len(masks[0])] * 5), 4, masks=name_masks(masks))
    problem = replace(problem, workload=replace(problem.workload, precision="int4"))
    found = plan(problem)
    # Blocks lie along inputs, of which each owner of an output holds all: nothing is sent.
    assert found.strategy == "connectivity"
    assert count_by_hand(masks, read_owners(found, masks)) == 0
