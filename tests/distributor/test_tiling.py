"""Plans tile their models exactly, counted from the file headers and not by the verifier."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from partwise.distributor import (
    balance_layers,
    decode_plan,
    encode_plan,
    measure_holding,
    verify_plan,
)
from partwise.distributor.build import build_plan
from partwise.distributor.plan import Member, NeuronShare, Plan, Stage
from partwise.model import Model
from partwise.part.owned import find_owned_neurons
from support.planning import make_problem


def test_a_thousand_random_models_and_part_counts_tile_exactly(
    make_synthetic: Callable[[random.Random], Any],
) -> None:
    rng = random.Random(0)
    num_tied_apart = 0
    for _ in range(1000):
        synthetic = make_synthetic(rng)
        model = synthetic.model
        num_parts = rng.randint(1, len(model.layers))
        plan = balance_layers(model, [f"s{i}" for i in range(num_parts)])
        assert decode_plan(encode_plan(plan)) == plan
        held: dict[str, dict[str, int]] = defaultdict(dict)
        for stage in plan.stages:
            (member,) = stage.members
            for layer in model.layers[stage.start : stage.stop]:
                for parameter in layer.parameters:
                    held[parameter.stored_name][member.part] = parameter.num_elements
        counted = {name: sum(parts.values()) for name, parts in held.items()}
        first, last = "part0", f"part{num_parts - 1}"
        expected = dict(synthetic.stored_elements)
        if synthetic.head is not None and num_parts > 1:
            expected[synthetic.head] *= 2
            num_tied_apart += 1
            assert list(held[synthetic.head]) == [first, last]
        assert counted == expected
        placed = {p.parameter: p for p in plan.placements}
        for parameter in model.parameters:
            placement = placed[parameter.name]
            holders = tuple(held[parameter.stored_name])
            if parameter.alias_of is None:
                assert placement.parts == holders
                assert placement.rule == ("owned" if len(holders) == 1 else "replicated")
            else:
                assert (placement.rule, placement.parts) == ("alias", (last,))
    assert num_tied_apart > 300


def own_at_random(rng: random.Random, model: Model, num_members: int) -> list[dict[str, set[int]]]:
    """Neurons by kind for each member, each of them any one's."""
    owned: list[dict[str, set[int]]] = [defaultdict(set) for _ in range(num_members)]
    for kind in {kind.name: kind for layer in model.layers for kind in layer.neuron_kinds}.values():
        for neuron in range(kind.count):
            rng.choice(owned)[kind.name].add(neuron)
    return owned


def share_blocks(model: Model, owned: list[dict[str, set[int]]]) -> Plan:
    """The blocks by members that own these neurons, between the ends."""
    num_blocks, kinds = model.num_blocks, {k.name for b in model.layers for k in b.neuron_kinds}
    of_blocks = sorted(kinds - {"vocabulary_row"})
    members = tuple(
        Member(
            part=f"part{i + 1}",
            neurons=tuple(
                NeuronShare(kind=kind, ranges=tuple((n, n + 1) for n in sorted(own[kind])))
                for kind in of_blocks
            ),
        )
        for i, own in enumerate(owned)
    )
    stages = (
        Stage(start=0, stop=1, members=(Member(part="part0"),)),
        Stage(start=1, stop=1 + num_blocks, members=members),
        Stage(
            start=1 + num_blocks,
            stop=num_blocks + 3,
            members=(Member(part=f"part{len(owned) + 1}"),),
        ),
    )
    problem = make_problem(model, len(owned) + 2)
    return build_plan(problem, "test", stages, list(problem.servers))


def count_by_name(name: str, shape: tuple[int, ...], model: Model, own: dict[str, set[int]]) -> int:
    """The elements of a block's tensor that a member of these neurons holds: by what the tensor is
    called in the files, not by its description."""
    expert = re.search(r"experts\.(\d+)\.", name)
    if expert:
        return math.prod(shape) * (int(expert[1]) in own["expert"])
    if re.search(r"norm|ln_|block_sparse_moe\.gate|mlp\.gate\.weight|(o|down|c)_proj\.bias", name):
        return math.prod(shape)
    kind = "kv_group" if "attn" in name else "mlp_unit"
    counts = {k.name: k.count for layer in model.layers for k in layer.neuron_kinds}
    return math.prod(shape) * len(own[kind]) // counts[kind]


def test_members_of_any_neurons_hold_each_element_of_the_files(
    make_synthetic: Callable[[random.Random], Any],
) -> None:
    rng, num_mixtures = random.Random(1), 0
    for _ in range(150):
        synthetic = make_synthetic(rng)
        model = synthetic.model
        owned = own_at_random(rng, model, rng.randint(2, 4))
        plan = share_blocks(model, owned)
        verify_plan(plan, model)
        num_mixtures += any("experts" in name for name in synthetic.stored_elements)
        parameters = [p for layer in model.layers[1:-2] for p in layer.parameters]
        for i, own in enumerate(owned):
            expected = sum(count_by_name(p.stored_name, p.shape, model, own) for p in parameters)
            assert measure_holding(plan, model, f"part{i + 1}").weight_bytes == 4 * expected
            for index, layer in enumerate(model.layers[1:-2], 1):
                found = find_owned_neurons(plan, f"part{i + 1}", index)
                for p in layer.parameters:
                    boxes = found.slices(p)
                    held = sum(math.prod(s.stop - s.start for s in box) for box in boxes)
                    assert held == count_by_name(p.stored_name, p.shape, model, own), p.name
    assert num_mixtures > 30
