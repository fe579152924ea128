"""How many neurons of each kind the members of a stage own, from what each can take.

Kinds of few neurons (KV groups) come first: what their rounding gives a member too much or
too little, kinds of many neurons (MLP units) make up for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from partwise.distributor.layer_classes import LayerClasses
from partwise.distributor.plan import Member
from partwise.distributor.runners import ONNX_BLOCK, ROUNDED
from partwise.distributor.shares import Ranges, lay_out, round_shares, share_out
from partwise.errors import PlanError
from partwise.model.description import Layer, Model, NeuronAxis, NeuronKind, Parameter
from partwise.model.families.family import KV_GROUP

Owned = tuple[tuple[str, int], ...]
"""Neurons that one member owns of a layer, by kind."""
Shares = tuple[tuple[Owned, ...], ...]
"""What each member owns, by class of layers."""


def find_granules(model: Model, precision: str, asked: Any) -> dict[str, int]:
    """Neurons by kind that must stay together: those ``asked`` for, and whole blocks of rounded
    weights.

    Raises:
        PlanError: ``asked`` is no table of whole numbers from 1 on by the model's kinds.
    """
    granules = _read_granules(model, asked) if asked else {}
    if precision in ROUNDED:
        for axis in (a for p in model.parameters for a in p.neurons if _is_cut_in_blocks(p, a)):
            block = ONNX_BLOCK // math.gcd(ONNX_BLOCK, axis.width)
            granules[axis.kind] = math.lcm(granules.get(axis.kind, 1), block)
    return granules


def _is_cut_in_blocks(parameter: Parameter, axis: NeuronAxis) -> bool:
    """Whether a cut between two of its neurons may fall into a block: they are inputs of a matrix,
    and it holds more than one."""
    start, stop = parameter.neuron_span
    return stop - start > 1 and len(parameter.shape) == 2 and axis.axis == 1


def _read_granules(model: Model, asked: Any) -> dict[str, int]:
    if not isinstance(asked, Mapping):
        raise PlanError(f"granules are {asked!r}: give neurons that stay together by kind")
    kinds = {kind.name: None for layer in model.layers for kind in layer.neuron_kinds}
    for name, granule in asked.items():
        if name not in kinds:
            raise PlanError(
                f"granules are given for {name!r}, no neurons of {model.name}: it has"
                f" {', '.join(kinds) or 'none'}"
            )
        if type(granule) is not int or granule < 1:
            raise PlanError(
                f"the granule of {name} is {granule!r}: give a whole number of at least 1"
            )
    return dict(asked)


def share_layer(
    layer: Layer, weights: Sequence[int], granules: Mapping[str, int], kv_weight: int = 0
) -> tuple[Owned, ...]:
    """Neurons of ``layer`` for each member, its elements in proportion to ``weights``; an element
    of a token's keys and values counts as ``kv_weight``."""
    elements = {kind.name: 0 for kind in layer.neuron_kinds}
    if KV_GROUP in elements:
        elements[KV_GROUP] = layer.kv_elements_per_token * kv_weight
    for parameter in layer.parameters:
        if parameter.neurons:
            elements[parameter.neurons[0].kind] += parameter.num_elements
    total, shared = sum(weights), 0
    given = [0] * len(weights)
    counts: dict[str, tuple[int, ...]] = {}
    for kind in sorted(layer.neuron_kinds, key=lambda k: k.count // granules.get(k.name, 1)):
        shared += elements[kind.name]
        wanted = [max(0, shared * w // total - g) for w, g in zip(weights, given, strict=True)]
        # Tied layers must be shared alike: their one kind is in proportion to the same numbers.
        wanted = wanted if counts and any(wanted) else list(weights)
        sizes = counts[kind.name] = round_shares(kind.count, wanted, granules.get(kind.name, 1))
        each = elements[kind.name] // kind.count
        given = [g + each * size for g, size in zip(given, sizes, strict=True)]
    return tuple(tuple((kind, n[i]) for kind, n in counts.items()) for i in range(len(weights)))


def share_classes(
    classes: LayerClasses,
    weights: Sequence[float],
    granules: Mapping[str, int],
    kv_weight: int = 0,
) -> Shares:
    """`share_layer` for every class of layers; weights count to a millionth of their sum."""
    whole = [max(1, round(1_000_000 * weight / sum(weights))) for weight in weights]
    return tuple(share_layer(layer, whole, granules, kv_weight) for layer in classes.layers)


def cap_weights(weights: Sequence[float], room: Sequence[float]) -> list[float]:
    """Shares of 1 in proportion to ``weights`` but at most ``room``: what one cannot take the
    others do. They add up to less where all the room does."""
    capped = [0.0] * len(weights)
    left, left_weight = 1.0, sum(weights)
    for i in sorted(range(len(weights)), key=lambda i: room[i] / weights[i]):
        capped[i] = min(room[i], left * weights[i] / max(left_weight, weights[i]))
        left, left_weight = left - capped[i], left_weight - weights[i]
    return capped


def make_members(
    model: Model,
    classes: LayerClasses,
    layers: tuple[int, int],
    parts: Sequence[str],
    shares: Shares,
    granules: Mapping[str, int],
) -> tuple[Member, ...]:
    """The members of a stage of ``layers`` (start, stop), which own ``shares``.

    Raises:
        Infeasible: several members, and no neurons in the layers.
    """

    def choose(index: int, kind: NeuronKind) -> Sequence[Ranges]:
        return lay_out([dict(owned)[kind.name] for owned in shares[classes.of[index]]])

    return share_out(model, layers, parts, choose, granules)
