"""The directory finds the owner of every neuron, as a walk over the whole plan finds it."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.distributor.plan import Plan
from partwise.errors import PlanError
from partwise.model import Model
from partwise.registry.directory import Directory
from partwise.registry.gathers import compile_gathers
from partwise.registry.registry import Registry
from partwise.remote.transport import Address
from support.large import llama_405b
from support.plans import random_plan

SEEDS = st.integers(0, 1 << 30)


def walk(plan: Plan, layer: int, kind: str, neuron: int) -> tuple[bool, list[str]]:
    """Whether the kind is split in the layer, and the parts that have the neuron."""
    (stage,) = (stage for stage in plan.stages if stage.start <= layer < stage.stop)
    is_split, owners = False, []
    for member in stage.members:
        for share in member.neurons:
            if share.kind == kind and share.is_about(layer):
                is_split = True
                owners += [member.part for a, b in share.ranges if neuron in range(a, b)]
    return is_split, owners if is_split else [member.part for member in stage.members]


@given(SEEDS)
def test_every_neuron_of_every_layer_is_found_at_its_owner(model: Model, seed: int) -> None:
    plan = random_plan(random.Random(seed), model)
    addresses = {part.server: Address("10.0.0.1", 1 + i) for i, part in enumerate(plan.parts)}
    directory = Directory(plan=plan, model=model, addresses=addresses)
    for number, layer in enumerate(model.layers):
        for kind in layer.neuron_kinds:
            for neuron in range(kind.count):
                found = directory.locate(number, neuron, kind.name)
                is_split, owners = walk(plan, number, kind.name, neuron)
                assert found == directory.locate(layer.name, neuron, kind.name)
                assert (found.is_split, [h.part for h in found.holders]) == (is_split, owners)
                for holder in found.holders:
                    assert any(neuron in range(a, b) for a, b in holder.ranges)
                    assert holder.server == plan.part(holder.part).server
                    assert holder.address == addresses[holder.server]


@given(SEEDS)
def test_owners_of_a_layer_feed_whoever_needs_all_of_it(model: Model, seed: int) -> None:
    directory = Directory(plan=random_plan(random.Random(seed), model), model=model)
    for layer, kind in ((0, "vocabulary_row"), (2, "mlp_unit"), (3, "kv_group")):
        owners = directory.list_owners(layer, kind)
        count = next(k.count for k in model.layers[layer].neuron_kinds if k.name == kind)
        sent = compile_gathers(owners, {"x": [(0, count)]})
        assert sorted(np.concatenate(list(sent.values())).tolist()) == list(range(count))


def test_a_part_without_neurons_and_an_unknown_address_are_no_obstacle(model: Model) -> None:
    plan = random_plan(random.Random(1), model)
    located = Directory(plan=plan, model=model).locate(0, 0)
    assert all(holder.address is None for holder in located.holders)


@pytest.mark.parametrize(
    ("layer", "neuron", "kind", "says"),
    [
        (7, 0, None, "llama-4 has no layer 7: it has 7, give 0 to 6"),
        (-1, 0, None, "llama-4 has no layer -1"),
        ("h.0", 0, None, "no layer 'h.0': its layers are called 'model.embed_tokens' to 'lm_head'"),
        (1, 0, None, "has several kinds of neurons: say which of kv_group, mlp_unit"),
        (1, 0, "rows", "has no neurons of kind 'rows': give one of kv_group, mlp_unit"),
        (1, 12, "mlp_unit", "has no mlp_unit 12: there are 12, give 0 to 11"),
        (1, -1, "kv_group", "has no kv_group -1: there are 4, give 0 to 3"),
        (5, 0, None, "layer 5 (model.norm) has no neurons that could be split: part"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    model: Model, layer: int | str, neuron: int, kind: str | None, says: str
) -> None:
    directory = Directory(plan=random_plan(random.Random(1), model), model=model)
    with pytest.raises(PlanError) as raised:
        directory.locate(layer, neuron, kind)
    assert says in str(raised.value)


def test_a_registry_holds_versions_in_their_order_and_refuses_others(model: Model) -> None:
    rng = random.Random(1)
    two, three, five = (
        Directory(plan=random_plan(rng, model, version), model=model) for version in (2, 3, 5)
    )
    registry = Registry((two,)).add(three)
    assert registry.at(2) is two
    assert registry.at(3) is three
    assert registry.drop(2).add(five).versions == (3, 5)
    with pytest.raises(
        PlanError, match="plan_version 4 is not known here: the registry holds 3, 5"
    ):
        registry.drop(2).add(five).at(4)
    with pytest.raises(PlanError, match="plan_version 1 is stale: the registry holds 2, 3"):
        registry.at(1)
    with pytest.raises(PlanError, match="plan_version 4 is not known here: the registry holds 2"):
        registry.at(4)
    with pytest.raises(PlanError, match="3 does not follow 3, which is held: number the plan 4"):
        registry.add(three)
    with pytest.raises(PlanError, match="plan_version 2 is the only one"):
        Registry((two,)).drop(2)


@pytest.mark.quiet
def test_a_directory_of_a_large_model_costs_what_is_looked_up() -> None:
    model = llama_405b()
    plan = random_plan(random.Random(1), model)
    start_s = time.process_time()
    directory = Directory(plan=plan, model=model)
    assert directory.locate("lm_head", 128_255).holders
    assert time.process_time() - start_s < 0.1
