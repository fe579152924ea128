"""What one part of a plan holds and reads, in bytes, from the plan and the model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from partwise.distributor.plan import Member, Plan
from partwise.distributor.shares import exact
from partwise.distributor.token_use import measure_use
from partwise.distributor.workload import ELEMENT_BYTES, kv_element_bytes
from partwise.model.description import Layer, Model, Parameter
from partwise.model.families.family import KV_GROUP, MLP_UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a part holds; tied weights within it count once.

    ``kv_bytes_per_token`` is for one token of one sequence. ``read_bytes_per_token`` are the
    weight bytes that one decoded token reads (of a layer that is split: in proportion to
    what is held of it; of experts: the share that a token chooses, on average).
    """

    weight_bytes: int
    kv_bytes_per_token: int
    read_bytes_per_token: int


def measure_holding(plan: Plan, model: Model, part_name: str) -> Holding:
    """What the part called ``part_name`` holds under a verified plan.

    Raises:
        PlanError: the plan has no such part.
    """
    part = plan.part(part_name)
    element_bytes = ELEMENT_BYTES[part.precision]
    stage = plan.stage_of(part_name)
    member = next(m for m in stage.members if m.part == part_name)
    is_owned = {p.parameter: p.rule == "owned" for p in plan.placements}
    held: dict[str, int] = {}
    kv_elements = read_elements = 0
    for i in range(stage.start, stage.stop):
        layer, counts = model.layers[i], count_all_neurons(member, i)
        sizes = {
            p.alias_of or p.name: count_held(
                p, counts if is_owned[p.alias_of or p.name] else {}, part.mlp_sparsity
            )
            for p in layer.parameters
        }
        held |= sizes
        read_elements += measure_use(layer, sum(sizes.values()), counts).read_elements
        kv_elements += _held_kv(layer, counts)
    return Holding(
        weight_bytes=int(sum(held.values()) * element_bytes),
        kv_bytes_per_token=kv_elements * kv_element_bytes(part.precision),
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


def count_held(parameter: Parameter, counts: Mapping[str, int], mlp_sparsity: float = 0.0) -> int:
    """Elements that a part with ``counts`` neurons (of kinds not named: all) holds of it.

    Which ones they are is not asked: they are taken to be the first. Of neurons that lie in
    several parameters, as experts do, that is right for a layer's parameters together.
    """
    if not parameter.neurons:
        return parameter.num_elements
    kind, (start, stop) = parameter.neurons[0].kind, parameter.neuron_span
    count = min(max(counts.get(kind, stop) - start, 0), stop - start)
    if kind == MLP_UNIT:
        count = keep_units(count, mlp_sparsity)
    return parameter.neuron_elements * count


def keep_units(num_units: int, mlp_sparsity: float) -> int:
    """What is left of ``num_units`` MLP units; the share removed is rounded down."""
    return num_units - int(num_units * exact(mlp_sparsity)) if mlp_sparsity else num_units


def _held_kv(layer: Layer, counts: Mapping[str, int]) -> int:
    groups = next((kind.count for kind in layer.neuron_kinds if kind.name == KV_GROUP), None)
    owned = counts.get(KV_GROUP)
    if groups is None or owned is None:
        return layer.kv_elements_per_token
    return layer.kv_elements_per_token * owned // groups
