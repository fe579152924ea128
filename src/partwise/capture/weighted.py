"""Operations whose weights have neurons: which axes they lie on, and how they are called on some.

An output unit of a linear layer, a channel of a convolution, a column of an embedding. Layers
whose weights another layer uses too, and convolutions in groups, are held whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from partwise.capture.graph import Dim, Node
from partwise.capture.values import Values
from partwise.model import NeuronAxis

_HOME = "torch.nn.functional."
_SPATIAL = {"conv1d": 1, "conv2d": 2}
_GROUPS = 6  # the place of ``groups`` among the arguments of a convolution
_KINDS = {"linear": "unit", "addmm": "unit", "embedding": "column"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """An operation that a member can compute for some of its ``count`` neurons.

    ``node`` calls a function. The neurons lie along ``axis`` of the result and along
    ``weight_axis`` of ``weight``; the neurons of ``source`` that they read lie along
    ``source_axis`` of it and ``source_weight_axis`` of the weight (None: it is read whole). In
    attention (`heads.py`) an owned neuron is ``width`` of them, and they begin at ``offset`` of the
    weight.
    """

    node: Node
    kind: str
    count: int
    axis: int
    weight: str
    weight_axis: int
    bias: str | None
    source: str
    source_axis: int | None = None
    source_weight_axis: int = 1
    offset: int = 0
    width: int = 1

    @property
    def axes(self) -> dict[str, tuple[NeuronAxis, ...]]:
        """Where the neurons lie in its parameters."""
        axes: dict[str, tuple[NeuronAxis, ...]] = {
            self.weight: (NeuronAxis(kind=self.kind, axis=self.weight_axis, width=1),)
        }
        if self.bias is not None:
            axes[self.bias] = (NeuronAxis(kind=self.kind, axis=0, width=1),)
        return axes


def find_weighted(node: Node, values: Values) -> Weighted | None:
    """``node`` as an operation with neurons; None where it is none, or cannot be split."""
    called = call_function(node)
    name = called.target.removeprefix(_HOME).partition(".")[0]
    if called.kind not in ("function", "aten") or node.spec is None:
        return None
    found = None
    if name == "linear" or name in _SPATIAL:
        found = _find_dense(called, name, values)
    elif name == "embedding":
        found = _find_table(called)
    elif name == "addmm":
        found = _find_product(called)
    return found if found is not None and _is_splittable(found, values) else None


def call_function(node: Node) -> Node:
    """A module of the table as the function that it calls; other nodes as they are."""
    if node.kind != "module":
        return node
    x, states = node.args[0] if node.args else None, node.states
    weight, bias = _refer(states.get("weight")), _refer(states.get("bias"))
    options, name = node.options, node.target
    args: tuple[Any, ...] | None = None
    if name == "Linear":
        args = (x, weight, bias)
    elif name in ("Conv1d", "Conv2d") and options["padding_mode"] == "zeros":
        sizes = (options[key] for key in ("stride", "padding", "dilation", "groups"))
        args = (x, weight, bias, *sizes)
    elif name == "Embedding":
        name, args = "embedding", (x, weight)
    elif name.startswith("BatchNorm") and "running_mean" in states:
        mean, variance = _refer(states["running_mean"]), _refer(states["running_var"])
        name, args = "batch_norm", (x, mean, variance, weight, bias, False, 0.0, options["eps"])
    if args is None:
        return node
    return msgspec.structs.replace(
        node, kind="function", target=_HOME + name.lower(), args=args, kwargs={}, options={},
        states={},
    )  # fmt: skip


def _refer(state: str | None) -> Any:
    return {"state": state} if state is not None else None


def _get(node: Node, place: int, key: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(key, default)


def _read(argument: Any, tag: str) -> str | None:
    """What an argument refers to by ``tag``; None where it does not."""
    found = argument.get(tag) if isinstance(argument, dict) else None
    return found if isinstance(found, str) else None


def _find_dense(node: Node, name: str, values: Values) -> Weighted | None:
    """A linear layer or a convolution: both read x, a weight and a bias."""
    x, weight = _read(_get(node, 0, "input"), "node"), _read(_get(node, 1, "weight"), "state")
    if x is None or weight is None or node.spec is None or values.spec(x) is None:
        return None
    spatial = _SPATIAL.get(name, 0)
    if spatial and _get(node, _GROUPS, "groups", 1) != 1:
        return None
    bias = _get(node, 2, "bias")
    if bias is not None and _read(bias, "state") is None:
        return None
    spec = values.spec(x)
    assert spec is not None
    return Weighted(
        node=node,
        kind="channel" if spatial else _KINDS[name],
        count=values.states[weight].shape[0],
        axis=len(node.spec.shape) - 1 - spatial,
        weight=weight,
        weight_axis=0,
        bias=_read(bias, "state"),
        source=x,
        source_axis=len(spec.shape) - 1 - spatial,
    )


def _find_table(node: Node) -> Weighted | None:
    """An embedding: torch's function reads the ids first, the operator the table."""
    first, second = _get(node, 0, "input"), _get(node, 1, "weight")
    if node.kind == "aten":
        first, second = second, first
    x, weight = _read(first, "node"), _read(second, "state")
    if x is None or weight is None or node.spec is None:
        return None
    axis = len(node.spec.shape) - 1
    return Weighted(
        node=node, kind=_KINDS["embedding"], count=node.spec.shape[axis].constant, axis=axis,
        weight=weight, weight_axis=1, bias=None, source=x,
    )  # fmt: skip


def _find_product(node: Node) -> Weighted | None:
    """A bias plus rows times a matrix whose outputs are its columns."""
    bias, x = _read(_get(node, 0, "self"), "state"), _read(_get(node, 1, "mat1"), "node")
    weight = _read(_get(node, 2, "mat2"), "state")
    if bias is None or x is None or weight is None or node.spec is None or node.kwargs:
        return None
    return Weighted(
        node=node, kind=_KINDS["addmm"], count=node.spec.shape[1].constant, axis=1, weight=weight,
        weight_axis=1, bias=bias, source=x, source_axis=1, source_weight_axis=0,
    )  # fmt: skip


def _is_splittable(found: Weighted, values: Values) -> bool:
    """Whether nobody else uses its weights, and each of its neurons is one of the result's."""
    own = [name for name in (found.weight, found.bias) if name is not None]
    is_own = all(values.num_uses[name] == 1 for name in own)
    is_parameter = all(values.states[name].is_parameter for name in own)
    is_axis = found.bias is None or values.states[found.bias].shape == (found.count,)
    spec = found.node.spec
    is_size = spec is not None and spec.shape[found.axis] == Dim(0, found.count)
    return is_own and is_parameter and is_axis and is_size
