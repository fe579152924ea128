"""Neurons under a change of shape: index arithmetic.

A channel that is flattened becomes a run of inputs; the outputs of a linear layer that are viewed
as heads are runs of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from partwise.capture.graph import Dim, Node, TensorSpec
from partwise.capture.layout import Layout, Place, Share, Spread, Want
from partwise.registry.gathers import Ids

PROBE = 10_007
"""A number of rows that no axis has: sizes are compared in such a batch."""


def spread_reshaped(node: Node, source: str, place: Place) -> Spread | None:
    """A change of shape, computed by each member for the neurons that it has."""
    layout, result = place.find_split(source), node.spec
    if layout is None or layout.axis is None or result is None:
        return None
    if result.dtype != place.spec(source).dtype:
        return None  # a view of the same bytes as other numbers
    found = _follow(place.spec(source), layout, result)
    if found is None:
        return None
    axis, outputs = found
    count = result.shape[axis].constant
    shares = {}
    for member in place.members:
        ids = layout.held[member]
        sizes = list(result.shape)
        sizes[axis] = Dim(0, len(outputs[member]))
        shares[member] = Share(
            node=_call_reshape(node, source, sizes),
            outputs=outputs[member],
            wants={source: Want(axis=layout.axis, ids=ids)},
        )
    return Spread(axis=axis, count=count, shares=shares)


def _call_reshape(node: Node, source: str, sizes: list[Dim]) -> Node:
    shape = [
        {"size": [dim.per_batch, dim.constant]} if dim.per_batch else dim.constant for dim in sizes
    ]
    return msgspec.structs.replace(
        node, kind="function", target="torch.reshape", args=({"node": source}, shape), kwargs={},
        options={}, states={},
    )  # fmt: skip


def _follow(
    before: TensorSpec, layout: Layout, after: TensorSpec
) -> tuple[int, Mapping[str, Ids]] | None:
    """The axis of the result along which the neurons lie, and the ids of each member there."""
    assert layout.axis is not None
    sizes, result = before.sizes(PROBE), after.sizes(PROBE)
    ahead = math.prod(sizes[: layout.axis])
    behind = math.prod(sizes[layout.axis + 1 :])
    for axis, size in enumerate(result):
        if math.prod(result[:axis]) != ahead or size == 1 != layout.count:
            continue
        rest = math.prod(result[axis + 1 :])
        if size % layout.count == 0 and size // layout.count * rest == behind:
            return axis, _widen(layout, size // layout.count)
        if layout.count % size == 0 and rest == layout.count // size * behind:
            narrowed = _narrow(layout, layout.count // size)
            return None if narrowed is None else (axis, narrowed)
        return None
    return None


def widen(ids: Ids, width: int) -> Ids:
    """Each of ``ids`` becomes ``width`` of them."""
    return (ids[:, None] * width + np.arange(width)).reshape(-1)


def _widen(layout: Layout, width: int) -> dict[str, Ids]:
    return {part: widen(ids, width) for part, ids in layout.held.items()}


def _narrow(layout: Layout, width: int) -> dict[str, Ids] | None:
    """Each ``width`` neurons become one; None where a part has some of them only."""
    narrowed = {}
    for part, ids in layout.held.items():
        groups = ids[::width] // width
        if not np.array_equal(widen(groups, width), ids):
            return None
        narrowed[part] = groups
    return narrowed
