"""How operations without weights of their own keep neurons apart: along which axes.

Each rule says which members compute what of one operation, or None: it mixes neurons, and every
member computes it whole.
"""

from __future__ import annotations

from typing import Any

from partwise.capture.arguments import list_references
from partwise.capture.graph import Dim, Node
from partwise.capture.layout import Layout, Place, Share, Spread, Want
from partwise.capture.values import list_read, list_states
from partwise.registry.gathers import Ids

CHANNEL_AXES = {"1d": -2, "2d": -3}


def spread_elementwise(node: Node, place: Place) -> Spread | None:
    """Elements are computed one by one; operands of fewer axes, or of size 1, are repeated."""
    return _spread_along(node, place, None)


def spread_by_channel(node: Node, place: Place) -> Spread | None:
    """Pooling: each channel by itself."""
    name = node.target.rpartition(".")[2] if node.kind != "aten" else node.target.partition(".")[0]
    if node.spec is None:
        return None
    return _spread_along(node, place, len(node.spec.shape) + CHANNEL_AXES[name[-2:]])


def spread_heads(node: Node, place: Place) -> Spread | None:
    """Attention over (batch, heads, tokens, width): each head by itself."""
    specs = [place.values.spec(name) for name in list_read(node)]
    is_grouped = bool(node.kwargs.get("enable_gqa"))
    if is_grouped or any(spec is None or len(spec.shape) != 4 for spec in specs):
        return None
    return _spread_along(node, place, 1)


def spread_norm(node: Node, place: Place) -> Spread | None:
    """A norm over the batch: each channel by itself, with its own parameters."""
    return _spread_along(node, place, 1, slices_states=True)


def _spread_along(
    node: Node, place: Place, wanted: int | None, *, slices_states: bool = False
) -> Spread | None:
    """Each member computes what it has of the first operand that is split (along axis ``wanted``
    of the result, if that is given), and reads the same neurons of the others."""
    result, read = node.spec, list_read(node)
    if result is None or any(place.values.spec(name) is None for name in read):
        return None
    rank = len(result.shape)
    for name in read:
        layout = place.find_split(name)
        if layout is None or layout.axis is None:
            continue
        axis = layout.axis + rank - len(place.spec(name).shape)
        if axis < 0 or result.shape[axis] != Dim(0, layout.count) or wanted not in (None, axis):
            continue
        shares = {
            member: _share_along(node, place, axis, layout, member, slices_states)
            for member in place.members
        }
        return Spread(axis=axis, count=layout.count, shares=shares)
    return None


def _share_along(
    node: Node, place: Place, axis: int, layout: Layout, member: str, slices_states: bool
) -> Share:
    assert node.spec is not None
    rank, ids = len(node.spec.shape), layout.held[member]
    wants: dict[str, Want] = {}
    slices: dict[str, list[tuple[int, Ids]]] = {}
    for name in list_read(node):
        own = axis - (rank - len(place.spec(name).shape))
        if own >= 0 and place.spec(name).shape[own] == Dim(0, layout.count):
            wants[name] = Want(axis=own, ids=ids)
    for name in dict.fromkeys(list_states(node)):
        shape = place.values.states[name].shape
        own = 0 if slices_states else axis - (rank - len(shape))
        if own >= 0 and shape[own : own + 1] == (layout.count,):
            slices[name] = [(own, ids)]
    return Share(node=node, outputs=ids, wants=wants, slices=slices)


def spread_over_others(node: Node, place: Place) -> Spread | None:
    """What works along some axes (softmax, mean, ...): the neurons of another axis stay apart."""
    name = (list_read(node) or [""])[0]
    layout = place.find_split(name) if name and len(list_read(node)) == 1 else None
    dims = _find_dims(node)
    if layout is None or layout.axis is None or dims is None or node.spec is None:
        return None
    rank = len(place.spec(name).shape)
    used = {dim % rank for dim in dims}
    if layout.axis in used:
        return None
    is_shorter = len(node.spec.shape) < rank
    axis = layout.axis - (sum(dim < layout.axis for dim in used) if is_shorter else 0)
    return _keep(node, place, name, axis)


def _keep(node: Node, place: Place, name: str, axis: int) -> Spread | None:
    """Each member computes what it has of the value ``name``, which lies along ``axis`` then."""
    layout = place.find_split(name)
    if layout is None or layout.axis is None or node.spec is None:
        return None
    if not 0 <= axis < len(node.spec.shape) or node.spec.shape[axis] != Dim(0, layout.count):
        return None
    shares = {
        member: Share(
            node=node, outputs=ids, wants={name: Want(axis=layout.axis, ids=ids)}
        )
        for member, ids in layout.held.items()
    }  # fmt: skip
    return Spread(axis=axis, count=layout.count, shares=shares)


def _find_dims(node: Node) -> list[int] | None:
    """The axes along which it works, where they are given."""
    found = node.options.get("dim", node.kwargs.get("dim"))
    if found is None and len(node.args) > 1:
        found = node.args[1]
    return _list_numbers(found)


def _list_numbers(argument: Any) -> list[int] | None:
    if isinstance(argument, dict) and "tuple" in argument:
        argument = argument["tuple"]
    numbers = argument if isinstance(argument, list) else [argument]
    return numbers if all(type(number) is int for number in numbers) else None


def spread_transposed(node: Node, place: Place) -> Spread | None:
    """Axes that change places take their neurons with them."""
    name = (list_read(node) or [""])[0]
    layout = place.find_split(name) if name else None
    if layout is None or layout.axis is None:
        return None
    rank = len(place.spec(name).shape)
    order = _find_order(node, rank)
    return None if order is None else _keep(node, place, name, order.index(layout.axis))


def _find_order(node: Node, rank: int) -> list[int] | None:
    """The axes of the argument in the order of the result."""
    name = node.target.rpartition(".")[2] if node.kind == "function" else node.target
    name = name.partition(".")[0]
    given = [*node.args[1:], *node.kwargs.values()]
    if name == "t":
        given = [0, 1][:rank]
    if name == "permute":
        numbers = _list_numbers(given[0] if len(given) == 1 else given)
        return None if numbers is None else [number % rank for number in numbers]
    numbers = _list_numbers(given)
    if numbers is None or len(numbers) != 2:
        return None
    order = list(range(rank))
    a, b = (number % rank for number in numbers)
    order[a], order[b] = order[b], order[a]
    return order


def spread_item(node: Node, place: Place) -> Spread | None:
    """Some places of other axes: ``x[:, 0]``, ``select`` and ``slice``."""
    name = (list_read(node) or [""])[0]
    layout = place.find_split(name) if name and len(list_read(node)) == 1 else None
    if layout is None or layout.axis is None:
        return None
    if node.kind == "aten":
        given = _list_numbers(node.args[1] if len(node.args) > 1 else 0)
        dim = (given or [layout.axis])[0] % len(place.spec(name).shape)
        is_gone = node.target.startswith("select")
        axis = layout.axis - (is_gone and dim < layout.axis)
        return None if dim == layout.axis else _keep(node, place, name, axis)
    places = node.args[1] if len(node.args) > 1 else None
    if isinstance(places, dict) and "tuple" in places:
        places = places["tuple"]
    if not isinstance(places, list):
        places = [places]
    return _keep_item(node, place, name, layout.axis, places)


def _keep_item(node: Node, place: Place, name: str, axis: int, places: list[Any]) -> Spread | None:
    is_slice = [isinstance(entry, dict) and "slice" in entry for entry in places]
    is_number = [type(entry) is int for entry in places]
    if not all(a or b for a, b in zip(is_slice, is_number, strict=True)):
        return None
    if axis < len(places) and places[axis] != {"slice": [None, None, None]}:
        return None
    return _keep(node, place, name, axis - sum(is_number[:axis]))


def spread_joined(node: Node, place: Place) -> Spread | None:
    """Tensors joined along an axis: where it is that of the neurons, ids are counted on."""
    result, read = node.spec, list(list_references(list(node.args[:1]), "node"))
    if result is None or not read or len(set(read)) < len(read):
        return None
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if type(dim) is not int or any(place.values.spec(name) is None for name in read):
        return None
    dim %= len(result.shape)
    layouts = [place.find_split(name) for name in read]
    if all(layout is not None and layout.axis == dim for layout in layouts):
        return _count_on(node, place, read, dim)
    if any(layout is not None and layout.axis == dim for layout in layouts) or any(
        True for _ in list_references(list(node.args), "state")
    ):
        return None
    return _spread_along(node, place, None)


def _count_on(node: Node, place: Place, read: list[str], dim: int) -> Spread:
    import numpy as np

    offsets = np.cumsum([0, *(place.layouts[name].count for name in read)])
    shares = {}
    for member in place.members:
        held = [place.layouts[name].held[member] for name in read]
        shares[member] = Share(
            node=node,
            outputs=np.concatenate([i + n for i, n in zip(held, offsets, strict=False)]),
            wants={name: Want(axis=dim, ids=ids) for name, ids in zip(read, held, strict=True)},
        )
    return Spread(axis=dim, count=int(offsets[-1]), shares=shares)
