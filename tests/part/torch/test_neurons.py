"""A stage of several members against one part of all layers, and against transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import NeuronShare, Plan
from partwise.distributor.workload import Workload
from partwise.model import Model, open_model
from support.passes import FAMILY_NAMES, PASSES, compare, run_passes, run_transformers, run_whole
from support.planning import plan_with
from support.stages import Owners, plan_owners, plan_stages

Saved = Callable[[str], Path]
GROUPS, UNITS, ROWS = "kv_group", "mlp_unit", "vocabulary_row"


def deal(model: Model, kinds: set[str]) -> dict[int, Owners]:
    """Three owners take turns with the neurons of these kinds in each layer."""
    return {
        i: {kind.name: np.arange(kind.count) * 2 % 3 for kind in layer.neuron_kinds
            if kind.name in kinds}
        for i, layer in enumerate(model.layers)
    }  # fmt: skip


def deal_one_by_one(model: Model) -> Plan:
    """Neighbours on different members, of each kind and in each layer."""
    return plan_owners(model, 3, deal(model, {GROUPS, UNITS, ROWS}))


def share_attention_alone(model: Model) -> Plan:
    """MLPs and ends are held whole by all members."""
    shares = [[NeuronShare(kind=GROUPS, ranges=ranges)] for ranges in (((0, 1), (3, 4)), ((1, 3),))]
    return plan_stages(model, [(0, len(model.layers), shares)])


def share_ends_and_mlps(model: Model) -> Plan:
    """Attention is held whole by all members."""
    return plan_owners(model, 3, deal(model, {UNITS, ROWS}))


def give_each_layer_other_owners(model: Model) -> Plan:
    """A kind is split in one layer and whole in the next."""
    counts = {kind.name: kind.count for layer in model.layers for kind in layer.neuron_kinds}
    units = np.arange(counts[UNITS])
    owners: dict[int, Owners] = {
        1: {GROUPS: [0, 0, 1, 0], UNITS: units * 0},
        2: {UNITS: units // 7 % 2},
        3: {GROUPS: [1, 1, 1, 1], UNITS: units < 30},
    }
    return plan_owners(model, 2, owners)


def put_neurons_between_layers(model: Model) -> Plan:
    """Layers, then neurons, then layers, then neurons."""
    groups = [NeuronShare(kind=GROUPS, ranges=r) for r in (((0, 1),), ((1, 2),), ((2, 4),))]
    rows = [NeuronShare(kind=ROWS, ranges=r) for r in (((0, 100),), ((100, 384),))]
    return plan_stages(
        model,
        [(0, 2, [[]]), (2, 3, [[share] for share in groups]), (3, 5, [[]]),
         (5, 6, [[share] for share in rows])],
    )  # fmt: skip


PLANS: dict[str, Callable[[Model], Plan]] = {
    "two alike": lambda model: plan_with(model, "count", 2),
    "70 and 30 %": lambda model: plan_with(model, "percentage", 2, percentages=[70, 30]),
    "three over four groups": lambda model: plan_with(model, "count", 3),
    "four": lambda model: plan_with(model, "count", 4),
    "one without a group": lambda model: plan_with(
        model, "percentage", 4, percentages=[40, 30, 20, 10]
    ),
    "attention here, MLP there": lambda model: plan_with(
        model, "type", 3, types={"attention": "s0", "mlp": ["s1", "s2"]}
    ),
    "one by one": deal_one_by_one,
    "attention alone": share_attention_alone,
    "ends and MLPs": share_ends_and_mlps,
    "other owners": give_each_layer_other_owners,
}


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_members_say_what_the_unsplit_model_says(family: str, plan: str, saved: Saved) -> None:
    path = saved(family)
    found, _ = run_passes(path, PLANS[plan](open_model(path)))
    assert compare(found, run_whole(path)).is_small
    assert compare(found, run_transformers(path)).is_small


@pytest.mark.parametrize("family", ["llama", "gpt2 untied"])
def test_neurons_between_layers_say_the_same(family: str, saved: Saved) -> None:
    path = saved(family)
    found, _ = run_passes(path, put_neurons_between_layers(open_model(path)))
    assert compare(found, run_whole(path)).is_small


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_tiling_says_what_the_unsplit_model_says(data: st.DataObject, saved: Saved) -> None:
    path = saved("llama of one block")
    model = open_model(path)
    num_members = data.draw(st.integers(2, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    owners: dict[int, Owners] = {
        i: {kind.name: _draw_owners(rng, kind.count, num_members) for kind in layer.neuron_kinds
            if kind.name == ROWS or rng.random() < 0.8}
        for i, layer in enumerate(model.layers)
    }  # fmt: skip
    found, _ = run_passes(path, plan_owners(model, num_members, owners), PASSES[:4])
    assert compare(found, run_whole(path)[:4]).is_small


def _draw_owners(rng: np.random.Generator, count: int, num_members: int) -> np.ndarray:
    """Runs of neurons, or single ones, of all members or some."""
    owners = rng.choice(rng.integers(0, num_members, num_members), count)
    return np.sort(owners) if rng.random() < 0.5 else owners


def test_each_half_that_is_split_is_exchanged_once(saved: Saved) -> None:
    path = saved("llama")
    rows = PASSES[3]
    width = open_model(path).hidden_size
    _, stages = run_passes(path, give_each_layer_other_owners(open_model(path)), [rows])
    # Attention and MLP of block 0, MLP of block 1, both of block 2.
    assert [e.calls for e in stages.exchanges] == [[f"sum (3, {width})"] * 5] * 2
    _, stages = run_passes(path, PLANS["two alike"](open_model(path)), [rows])
    sums = [f"sum (3, {width})"] * 7
    assert stages.exchanges[0].calls == [*sums, "gather int64", "gather float32"]


def test_a_pass_without_picks_exchanges_nothing_for_the_head(saved: Saved) -> None:
    path = saved("llama")
    _, stages = run_passes(path, PLANS["two alike"](open_model(path)), [PASSES[1]])
    assert {call.split()[0] for call in stages.exchanges[1].calls} == {"sum"}


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("family", ["llama tied", "gpt2", "phi3"])
def test_members_hold_the_weights_that_the_plan_says(family: str, plan: str, saved: Saved) -> None:
    path = saved(family)
    model = open_model(path)
    made = PLANS[plan](model)
    (runners,) = run_passes(path, made, [])[1].runners
    for part, runner in zip(made.parts, runners, strict=True):
        footprint = part_footprint(made, model, part.name, Workload(context_tokens=16))
        assert runner.weight_bytes == footprint.weight_bytes
