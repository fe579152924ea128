"""Plans tile their models exactly, counted from the file headers and not by the verifier."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from partwise.distributor import balance_layers, decode_plan, encode_plan


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
