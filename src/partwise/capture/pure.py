"""A torch graph without operations that change their arguments.

Parts hold copies of what crosses between them: a change of one would not be seen in another. So
`x.relu_()` is written as `x.relu()`, and what read x afterwards reads its result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partwise.capture.lines import find_line
from partwise.capture.table import IN_PLACE
from partwise.capture.trace import Traced, Unsuitable

_VIEWS = """
    alias chunk contiguous detach dropout expand expand_as flatten getitem movedim narrow permute
    reshape select slice split split_with_sizes squeeze swapaxes t to transpose type_as unbind
    unflatten unsqueeze view view_as Dropout Flatten Identity Unflatten
"""
"""What may give the memory of its argument."""


def make_pure(traced: Traced) -> None:
    """Write every change of a value as a new value.

    Raises:
        Unsuitable: something else still reads the memory that is changed; says the line.
    """
    nodes = list(traced.graph.nodes)
    places = {node: i for i, node in enumerate(nodes)}
    roots: dict[Any, Any] = {}
    for node in nodes:
        source = _first_argument(node)
        if source is not None and _changes_argument(node, traced.root):
            _separate(node, source, roots, places, traced.states)
            roots[node] = node
        else:
            is_view = source is not None and _name(node, traced.root) in _VIEWS.split()
            roots[node] = roots[source] if is_view else node


def _first_argument(node: Any) -> Any:
    first = node.args[0] if node.args else None
    return first if hasattr(first, "users") else None


def _name(node: Any, root: Any) -> str:
    """What the operation is called, without its home."""
    if node.op == "call_module":
        return type(root.get_submodule(node.target)).__name__
    if node.op == "call_method":
        return str(node.target)
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return str(schema.name).rpartition("::")[2]
    return str(getattr(node.target, "__name__", ""))


def _changes_argument(node: Any, root: Any) -> bool:
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(node.target), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    if node.kwargs.get("inplace"):
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return bool(schema.is_mutable)
    name = _name(node, root)
    is_marked = name.endswith("_") and not name.endswith("__") and name != "or_" != name != "and_"
    return name in IN_PLACE or is_marked


def _separate(
    node: Any, changed: Any, roots: Mapping[Any, Any], places: Mapping[Any, int], states: Any
) -> None:
    """Let ``node``, which changes ``changed``, be the value that is read afterwards."""
    here = places[node]
    for other, root in roots.items():
        is_read = other is not changed and any(places[user] > here for user in other.users)
        if root is roots[changed] and (is_read or other.name in states):
            raise Unsuitable(
                f"{find_line(node)}: it changes a tensor in place that {other.name!r} still"
                " shares; use the operation that gives a new tensor"
            )
    changed.replace_all_uses_with(node, delete_user_cb=lambda user: places[user] > here)
