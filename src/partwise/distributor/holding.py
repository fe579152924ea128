"""What one part of a plan holds and reads, in bytes, from the plan and the model alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from partwise.distributor.plan import PRECISION_BYTES, Member, Plan
from partwise.model.description import Layer, Model, Parameter
from partwise.model.families.family import KV_GROUP

KV_ELEMENT_BYTES = 4
"""The KV cache is kept in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a part holds; tied weights within it count once.

    ``kv_bytes_per_token`` is for one token of one sequence. ``read_bytes_per_token`` are the
    weight bytes that one decoded token reads (of a layer that is split: in proportion to
    what is held of it).
    """

    weight_bytes: int
    kv_bytes_per_token: int
    read_bytes_per_token: int


def measure_holding(plan: Plan, model: Model, part_name: str) -> Holding:
    """What the part called ``part_name`` holds under a verified plan.

    Raises:
        PlanError: the plan has no such part.
    """
    element_bytes = PRECISION_BYTES[plan.part(part_name).precision]
    stage = plan.stage_of(part_name)
    member = next(m for m in stage.members if m.part == part_name)
    is_owned = {p.parameter: p.rule == "owned" for p in plan.placements}
    held: dict[str, int] = {}
    kv_elements = read_elements = 0
    for i in range(stage.start, stage.stop):
        layer, counts = model.layers[i], count_all_neurons(member, i)
        sizes = {
            p.alias_of or p.name: _held_elements(p, counts, is_owned[p.alias_of or p.name])
            for p in layer.parameters
        }
        held |= sizes
        read_elements += layer.read_elements_per_token * sum(sizes.values()) // layer.num_elements
        kv_elements += _held_kv(layer, counts)
    return Holding(
        weight_bytes=int(sum(held.values()) * element_bytes),
        kv_bytes_per_token=kv_elements * KV_ELEMENT_BYTES,
        read_bytes_per_token=int(read_elements * element_bytes),
    )


def count_all_neurons(member: Member, layer: int) -> dict[str, int]:
    """The neurons that the member owns in layer ``layer`` of the model, by kind.

    A kind that is not named is not split there: the member holds all of it.
    """
    counts: dict[str, int] = {}
    for share in member.neurons:
        if share.is_about(layer):
            num_owned = sum(stop - start for start, stop in share.ranges)
            counts[share.kind] = counts.get(share.kind, 0) + num_owned
    return counts


def _held_elements(parameter: Parameter, counts: Mapping[str, int], is_owned: bool) -> int:
    """A replicated parameter is held whole, an owned one by the neurons of its split axes."""
    split = [(axis, counts[axis.kind]) for axis in parameter.neurons if axis.kind in counts]
    if not is_owned or not split:
        return parameter.num_elements
    rows = sum(axis.width * count for axis, count in split)
    axis = split[0][0].axis
    return rows * math.prod(parameter.shape[:axis] + parameter.shape[axis + 1 :])


def _held_kv(layer: Layer, counts: Mapping[str, int]) -> int:
    groups = next((kind.count for kind in layer.neuron_kinds if kind.name == KV_GROUP), None)
    owned = counts.get(KV_GROUP)
    if groups is None or owned is None:
        return layer.kv_elements_per_token
    return layer.kv_elements_per_token * owned // groups
