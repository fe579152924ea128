"""What a part owns of the layers that its graphs are of.

A part that exchanges nothing holds its layers whole, whatever its plan says of neurons.
"""

from __future__ import annotations

import math

from partwise.model import Layer, LayerKind, Parameter
from partwise.model.families.family import KV_GROUP, VOCABULARY_ROW
from partwise.part.onnx.shape import count_kv_heads
from partwise.part.owned import Owned, Ranges, find_owned_neurons
from partwise.part.runner import RunnerOptions

ALL = Owned()


def list_owned(options: RunnerOptions) -> list[Owned]:
    """What the part owns of each layer of its stage, in their order."""
    stage = options.plan.stage_of(options.part)
    layers = range(stage.start, stage.stop)
    if options.exchange is None:
        return [ALL for _ in layers]
    return [find_owned_neurons(options.plan, options.part, layer) for layer in layers]


def list_layers(options: RunnerOptions) -> tuple[Layer, ...]:
    """The layers of the part's stage."""
    stage = options.plan.stage_of(options.part)
    return options.model.layers[stage.start : stage.stop]


def list_rows(options: RunnerOptions, kind: LayerKind) -> list[Ranges] | None:
    """The vocabulary rows that each member of the part's stage owns of the layer ``kind``, in the
    order of the plan; None where the stage has no such layer, or does not split it."""
    stage = options.plan.stage_of(options.part)
    for index, layer in enumerate(list_layers(options), start=stage.start):
        if layer.kind is kind and options.exchange is not None:
            owned = [find_owned_neurons(options.plan, m.part, index) for m in stage.members]
            if owned[0].is_split(VOCABULARY_ROW):
                return [own.by_kind[VOCABULARY_ROW] for own in owned]
    return None


def list_groups(options: RunnerOptions) -> list[int]:
    """The KV groups that the part owns of each block, without blocks of which it owns none."""
    counts = [
        own.count(KV_GROUP, count_kv_heads(layer))
        for layer, own in zip(list_layers(options), list_owned(options), strict=True)
        if layer.kind is LayerKind.BLOCK
    ]
    return [count for count in counts if count]


def count_elements(parameter: Parameter, owned: Owned) -> int:
    """The elements of ``parameter`` that belong to ``owned``."""
    boxes = owned.slices(parameter)
    return sum(math.prod(one.stop - one.start for one in box) for box in boxes)
