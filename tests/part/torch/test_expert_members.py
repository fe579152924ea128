"""Mixtures whose experts lie on several members, against one part and against transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import NeuronShare, Plan
from partwise.distributor.workload import Workload
from partwise.model import Model, open_model
from partwise.part.runner import Runner, RunnerOptions
from partwise.part.torch.experts import Experts
from partwise.part.torch.runner import TorchRunner
from support.decoders import MIXTURES
from support.passes import (
    PASSES,
    Outputs,
    compare,
    list_tokens,
    run_passes,
    run_transformers,
    run_whole,
)
from support.planning import plan_with
from support.stages import Owners, Stages, plan_owners, plan_stages

Saved = Callable[[str], Path]
EXPERTS = "expert"


def deal_one_by_one(model: Model) -> Plan:
    """Neighbours on different members, of each kind and in each layer."""
    owners: dict[int, Owners] = {
        i: {kind.name: np.arange(kind.count) * 2 % 3 for kind in layer.neuron_kinds}
        for i, layer in enumerate(model.layers)
    }
    return plan_owners(model, 3, owners)


def list_ids(model: Model) -> Plan:
    """Experts by their numbers; what nobody names is shared out by count."""
    ids = {"*": {EXPERTS: {"s0": "0,2:4", "s1": "1,4:" + str(count_experts(model))}}}
    return plan_with(model, "ids", 2, ids=ids)


def count_experts(model: Model) -> int:
    return next(k.count for b in model.layers for k in b.neuron_kinds if k.name == EXPERTS)


def share_experts_alone(model: Model) -> Plan:
    """Attention and both ends are held whole by all members; one of them has one expert."""
    last = count_experts(model)
    shares = [[NeuronShare(kind=EXPERTS, ranges=r)] for r in (((0, 1), (2, last)), ((1, 2),), ())]
    return plan_stages(model, [(0, len(model.layers), shares)])


def put_experts_between_layers(model: Model) -> Plan:
    """Layers, then experts, then layers."""
    half = count_experts(model) // 2
    shares = [[NeuronShare(kind=EXPERTS, ranges=r)] for r in (((0, half),), ((half, 2 * half),))]
    num_layers = len(model.layers)
    return plan_stages(model, [(0, 1, [[]]), (1, 3, shares), (3, num_layers, [[]])])


PLANS: dict[str, Callable[[Model], Plan]] = {
    "two alike": lambda model: plan_with(model, "count", 2),
    "three alike": lambda model: plan_with(model, "count", 3),
    "70 and 30 %": lambda model: plan_with(model, "percentage", 2, percentages=[70, 30]),
    "60, 30 and 10 %": lambda model: plan_with(model, "percentage", 3, percentages=[60, 30, 10]),
    "attention here, experts there": lambda model: plan_with(
        model, "type", 3, types={"attention": "s0", "mlp": ["s1", "s2"]}
    ),
    "explicit ids": list_ids,
    "one by one": deal_one_by_one,
    "experts alone": share_experts_alone,
    "experts between layers": put_experts_between_layers,
}


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("family", list(MIXTURES))
def test_members_say_what_the_unsplit_mixture_says(family: str, plan: str, saved: Saved) -> None:
    path = saved(family)
    found, _ = run_passes(path, PLANS[plan](open_model(path)))
    assert compare(found, run_whole(path)).is_small
    assert compare(found, run_transformers(path)).is_small


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_owners_say_what_the_unsplit_mixture_says(data: st.DataObject, saved: Saved) -> None:
    path = saved(data.draw(st.sampled_from(list(MIXTURES))))
    model = open_model(path)
    num_members = data.draw(st.integers(2, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    owners: dict[int, Owners] = {
        i: {kind.name: rng.integers(0, num_members, kind.count) for kind in layer.neuron_kinds
            if kind.name == EXPERTS or rng.random() < 0.3}
        for i, layer in enumerate(model.layers)
    }  # fmt: skip
    found, _ = run_passes(path, plan_owners(model, num_members, owners), PASSES[:4])
    assert compare(found, run_whole(path)[:4]).is_small


@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("family", list(MIXTURES))
def test_members_hold_the_experts_that_the_plan_says(family: str, plan: str, saved: Saved) -> None:
    path = saved(family)
    model = open_model(path)
    made = PLANS[plan](model)
    stages = run_passes(path, made, [])[1]
    runners = [runner for stage in stages.runners for runner in stage]
    for part, found in zip(made.parts, runners, strict=True):
        footprint = part_footprint(made, model, part.name, Workload(context_tokens=16))
        assert found.weight_bytes == footprint.weight_bytes


def test_a_block_is_summed_once_for_attention_and_once_for_its_experts(saved: Saved) -> None:
    path = saved("mixtral")
    model = open_model(path)
    _, stages = run_passes(path, PLANS["experts alone"](model), [PASSES[3]])
    sums = [f"sum (3, {model.hidden_size})"] * model.num_blocks
    assert [exchange.calls for exchange in stages.exchanges] == [sums] * 3


Change = Callable[[RunnerOptions, list[Any]], None]


def swap_shares(options: RunnerOptions, mixtures: list[Any]) -> None:
    """Each member takes its experts for those of the other, of which there are as many."""
    for mixture in mixtures:
        experts = mixture.experts.partial
        numbers = list(experts)
        swapped = {str((int(n) + len(numbers)) % (2 * len(numbers))): experts[n] for n in numbers}
        mixture.experts.partial = Experts(swapped)


def forget_the_experts_of_one(options: RunnerOptions, mixtures: list[Any]) -> None:
    if options.part == "part1":
        mixtures[1].experts.partial = Experts()


def route_one_otherwise(options: RunnerOptions, mixtures: list[Any]) -> None:
    if options.part == "part1":
        mixtures[1].gate.weight.copy_(mixtures[1].gate.weight.flip(0))


def route_all_otherwise(options: RunnerOptions, mixtures: list[Any]) -> None:
    mixtures[1].gate.weight.copy_(mixtures[1].gate.weight.flip(0))


def sum_unweighted(options: RunnerOptions, mixtures: list[Any]) -> None:
    original = mixtures[1].experts.partial.forward
    mixtures[1].experts.partial.forward = lambda hidden, chosen, weights: original(
        hidden, chosen, torch.full_like(weights, 0.5)
    )


CHANGES: list[Change] = [
    swap_shares, forget_the_experts_of_one, route_one_otherwise, route_all_otherwise,
    sum_unweighted,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_mutation_is_seen(change: Change, saved: Saved) -> None:
    path = saved("mixtral")

    def make(options: RunnerOptions) -> Runner:
        made = TorchRunner(options)
        change(options, [module.mlp for module in made._modules if hasattr(module, "mlp")])
        return made

    stages = Stages(path, plan_with(open_model(path), "count", 2), make)
    found: Outputs = [stages.run(rows, list_tokens(rows)) for rows in PASSES]
    assert compare(found, run_whole(path)).relative > 1e-2
