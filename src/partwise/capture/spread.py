"""How the members of a stage compute one operation: by the neurons that they own or have, or whole.

An operation with weights is computed where its neurons are owned; one that works on each neuron by
itself where they are; what mixes neurons is computed whole by every member.
"""

from __future__ import annotations

from collections.abc import Callable

from partwise.capture.graph import Node
from partwise.capture.layout import Place, Share, Spread, Want
from partwise.capture.reshape import spread_reshaped, widen
from partwise.capture.rules import (
    spread_by_channel,
    spread_elementwise,
    spread_heads,
    spread_item,
    spread_joined,
    spread_norm,
    spread_over_others,
    spread_transposed,
)
from partwise.capture.values import list_read
from partwise.capture.weighted import Weighted, call_function, find_weighted

Rule = Callable[[Node, Place], Spread | None]

_ELEMENTWISE = """
    abs add alias and_ bool ceil clamp clone contiguous cos detach div dropout elu eq erf exp float
    floor floor_divide floordiv ge gelu gt hardsigmoid hardswish hardtanh int isnan le leaky_relu
    log log1p logical_and logical_not logical_or long lt masked_fill maximum minimum mish mod mul
    nan_to_num ne neg or_ pow reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign
    silu sin softplus sqrt square sub tanh to truediv type_as where _to_copy Dropout Dropout1d
    Dropout2d ELU GELU Hardsigmoid Hardswish Hardtanh Identity LeakyReLU Mish ReLU ReLU6 SELU SiLU
    Sigmoid Softplus Tanh
"""
_POOLING = """
    adaptive_avg_pool1d adaptive_avg_pool2d avg_pool1d avg_pool2d max_pool1d max_pool2d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d AvgPool1d AvgPool2d
    MaxPool1d MaxPool2d
"""
_OVER_OTHERS = "softmax log_softmax mean sum amax amin prod Softmax LogSoftmax _softmax logsumexp"
_RESHAPED = """
    flatten reshape squeeze unflatten unsqueeze view _unsafe_view Flatten Unflatten
"""
_TRANSPOSED = "permute swapaxes t transpose"
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), spread_elementwise),
    **dict.fromkeys(_POOLING.split(), spread_by_channel),
    **dict.fromkeys(_OVER_OTHERS.split(), spread_over_others),
    **dict.fromkeys(_TRANSPOSED.split(), spread_transposed),
    **dict.fromkeys(("cat", "concat"), spread_joined),
    **dict.fromkeys(("getitem", "select", "slice"), spread_item),
    "batch_norm": spread_norm,
    "scaled_dot_product_attention": spread_heads,
}


def find_spread(node: Node, place: Place) -> Spread | None:
    """What each member computes of ``node``; None: each computes it whole."""
    weighted = place.heads.get(node.name) or find_weighted(node, place.values)
    if weighted is not None:
        is_shared = place.owned is not None and weighted.kind == place.kind
        return _spread_weighted(weighted, place) if is_shared else None
    called = call_function(node)
    name = _name(called)
    if name in _RESHAPED.split():
        read = list_read(called)
        return spread_reshaped(called, read[0], place) if len(read) == 1 else None
    rule = _RULES.get(name)
    return rule(called, place) if rule is not None and list_read(called) else None


def _name(node: Node) -> str:
    """What the operation is called, without its home."""
    if node.kind == "aten":
        return node.target.partition(".")[0]
    return node.target.rpartition(".")[2]


def _spread_weighted(found: Weighted, place: Place) -> Spread:
    assert place.owned is not None
    shares = {}
    for member in place.members:
        ids = widen(place.owned[member], found.width)
        slices = {found.weight: [(found.weight_axis, ids + found.offset)]}
        if found.bias is not None:
            slices[found.bias] = [(0, ids + found.offset)]
        wants = {}
        if found.source_axis is not None:
            read = place.reads(found.weight, found.weight_axis, ids)
            is_none = read is not None and not len(read)
            if read is not None and not (is_none and found.kind == "channel"):
                wants[found.source] = Want(axis=found.source_axis, ids=read)
                slices[found.weight].append((found.source_weight_axis, read))
        shares[member] = Share(node=found.node, outputs=ids, wants=wants, slices=slices)
    return Spread(axis=found.axis, count=found.count, shares=shares)
