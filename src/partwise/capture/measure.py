"""What the operations of a traced module give in batches of several sizes: shapes, not values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from partwise.capture.lines import find_line
from partwise.capture.trace import Call, Traced, Unsuitable

if TYPE_CHECKING:
    import torch

TOLERANCES = (1e-3, 1e-5)
"""Relative and absolute: the same operations may round otherwise when they are put together."""


@dataclass(frozen=True, slots=True)
class Sketch:
    """A tensor without its values; ``order`` as in `TensorSpec`."""

    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]


Sketches = Mapping[str, Any]
"""By node: its result, with sketches for tensors."""


def measure(traced: Traced, call: Call) -> dict[int, Sketches]:
    """Sketches of all nodes for each batch size that was tried: that of the examples first, then
    two others, where the module takes others.

    Raises:
        Unsuitable: it cannot compute its examples once it is traced.
    """
    sizes = {tensor.shape[0] for tensor in call.tensors.values() if tensor.ndim}
    num_rows = next(iter(sizes), 1)
    first, result = _run(traced, call, num_rows, num_rows)
    _compare(result, call)
    found = {num_rows: first}
    if len(sizes) != 1:
        return found
    try:
        others = {n: _run(traced, call, num_rows, n)[0] for n in (num_rows + 1, num_rows + 3)}
    except Unsuitable:
        return found
    return found | others


def _compare(result: Any, call: Call) -> None:
    """Refuse what was traced where it gives others than the module's own results: tracing does not
    see everything that a module does."""
    import torch

    with torch.no_grad():  # twice: a module may keep something from call to call
        called = [call.module(**call.others, **_copy(call.tensors)) for _ in range(2)]
    ours = list_tensors(result)
    if not all(_is_close(ours, list_tensors(expected)) for expected in called):
        raise Unsuitable(
            "its operations give other values than the module when it is called: does it keep"
            " something from call to call, or draw random numbers?"
        )


def _is_close(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> bool:
    import torch

    return len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.allclose(a, b.to(a.dtype), *TOLERANCES, equal_nan=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def _copy(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def list_tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of a module's result, whatever holds them."""
    import torch

    if isinstance(result, torch.Tensor):
        return [result]
    items = result.values() if isinstance(result, Mapping) else result
    is_many = isinstance(items, Iterable) and not isinstance(items, str)
    return [tensor for item in items for tensor in list_tensors(item)] if is_many else []


def _run(traced: Traced, call: Call, num_rows: int, batch: int) -> tuple[Sketches, Any]:
    """One pass over the first rows of the examples, again and again where they are too few: its
    sketches, and its result."""
    import torch

    rows = torch.arange(batch) % num_rows
    given = [
        tensor[rows] if tensor.ndim and batch != num_rows else tensor.clone()
        for tensor in call.tensors.values()
    ]
    values: dict[Any, Any] = dict(zip(traced.inputs, given, strict=False))
    values |= traced.states
    with torch.no_grad():
        for node in traced.graph.nodes:
            if node.op not in ("placeholder", "output") and node.name not in values:
                values[node.name] = _compute(traced, node, values)
        result = torch.fx.node.map_arg(traced.output, lambda node: values[node.name])
    return {name: sketch(value) for name, value in values.items()}, result


def _compute(traced: Traced, node: Any, values: Mapping[str, Any]) -> Any:
    import torch

    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
    try:
        if node.op == "call_module":
            return traced.root.get_submodule(node.target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        if node.op == "get_attr":
            return getattr(traced.root, node.target)
        return node.target(*args, **kwargs)
    except Exception as exc:  # whatever the operation says of what it is given
        raise Unsuitable(f"{find_line(node)}: {exc}") from exc


def sketch(value: Any) -> Any:
    """``value`` with sketches for its tensors."""
    import torch

    if isinstance(value, torch.Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return Sketch(tuple(value.shape), dtype, _find_order(value))
    if isinstance(value, tuple | list):
        return type(value)(map(sketch, value)) if type(value) in (tuple, list) else tuple(
            map(sketch, value)
        )  # fmt: skip
    return value


def _find_order(tensor: Any) -> tuple[int, ...]:
    axes = range(tensor.ndim)
    if tensor.is_contiguous() or 0 in tensor.stride():
        return tuple(axes)
    return tuple(sorted(axes, key=lambda axis: (-tensor.stride(axis), axis)))


def has_tensor(value: Any) -> bool:
    """Whether there is a sketch in ``value``."""
    if isinstance(value, tuple | list):
        return any(map(has_tensor, value))
    return isinstance(value, Sketch)
