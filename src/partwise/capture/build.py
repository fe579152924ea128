"""From a traced module to its graph as data: operations looked up, sizes worked out, the rest gone.

What an operation gives that is no tensor (a size, a dtype) is written where it is used, as a
number of rows where it grows with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from partwise.capture.arguments import Unwritable, list_references, write_argument
from partwise.capture.graph import ELEMENT_BYTES, Dim, Graph, Input, Node, State, TensorSpec
from partwise.capture.leaves import is_leaf, list_options
from partwise.capture.lines import find_line
from partwise.capture.measure import Sketch, Sketches, has_tensor, measure
from partwise.capture.pure import make_pure
from partwise.capture.table import METHODS, name_function
from partwise.capture.trace import Call, Traced, Unsuitable

if TYPE_CHECKING:
    import torch

UNUSED = ("num_batches_tracked",)
"""Buffers that only training reads."""


@dataclass(kw_only=True)
class States:
    """Parameters and buffers by the name under which they are stored; equal memory once."""

    parameters: Mapping[int, str]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    _names: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def add(self, name: str, tensor: torch.Tensor) -> str:
        """Keep ``tensor``; the name by which it is known."""
        where = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
        key = (*where, tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        known = self._names.setdefault(key, self.parameters.get(id(tensor), name))
        self.tensors.setdefault(known, tensor.detach())
        return known

    def list_specs(self, used: set[str]) -> tuple[State, ...]:
        """Those that are ``used``, as data."""
        parameters = set(self.parameters.values())
        return tuple(
            State(
                name=name,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                is_parameter=name in parameters,
            )
            for name, tensor in self.tensors.items()
            if name in used
        )


def build_graph(call: Call, traced: Traced) -> tuple[Graph, Mapping[str, torch.Tensor]]:
    """The graph of a traced module, and the tensors of its states.

    Raises:
        Unsuitable: an operation outside the table, or one that changes what others read.
    """
    make_pure(traced)
    measured = measure(traced, call)
    writer = _Writer(call, traced, measured)
    nodes = [writer.write(node) for node in traced.graph.nodes if writer.is_computed(node)]
    output = writer.write_value(traced.output)
    nodes = _drop_unused(nodes, output)
    used = {name for node in nodes for name in _list_states(node)}
    if any(list_references(output, "state")):
        raise Unsuitable("it gives one of its parameters as a result: give a copy of it")
    graph = Graph(
        name=type(call.module).__name__,
        fixed_batch=next(iter(measured)) if len(measured) == 1 else None,
        inputs=tuple(
            Input(name=name, argument=argument, spec=writer.find_spec(name))
            for name, argument in zip(traced.inputs, call.tensors, strict=True)
        ),
        constants={name: repr(value) for name, value in call.others.items()},
        nodes=tuple(nodes),
        output=output,
        states=writer.states.list_specs(used),
    )
    return graph, {state.name: writer.states.tensors[state.name] for state in graph.states}


def _list_states(node: Node) -> list[str]:
    return [*node.states.values(), *list_references([*node.args, node.kwargs], "state")]


def _drop_unused(nodes: Sequence[Node], output: Any) -> list[Node]:
    """The nodes that the output comes from."""
    needed, kept = set(list_references(output, "node")), []
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(list_references([*node.args, node.kwargs], "node"))
    return kept[::-1]


class _Writer:
    """Writes the nodes of one traced module as data."""

    def __init__(self, call: Call, traced: Traced, measured: Mapping[int, Sketches]) -> None:
        self._traced = traced
        self._batches = list(measured)
        self._sketches = list(measured.values())
        parameters = {id(p): name for name, p in call.module.named_parameters()}
        self.states = States(parameters=parameters)

    def is_computed(self, node: Any) -> bool:
        """Whether a node gives a tensor that parts compute."""
        if node.op in ("placeholder", "output") or node.name in self._traced.states:
            return False
        return has_tensor(self._sketches[0][node.name])

    def write(self, node: Any) -> Node:
        """A node as data."""
        kind, target = self._find_operation(node)
        options: dict[str, Any] = {}
        states: dict[str, str] = {}
        if kind == "module":
            module = self._traced.root.get_submodule(node.target)
            options = {k: self.write_value(v) for k, v in list_options(module).items()}
            states = {
                name: self.states.add(f"{node.target}.{name}", tensor)
                for name, tensor in (*module.named_parameters(), *module.named_buffers())
                if name not in UNUSED
            }
        leaves: list[TensorSpec] = []
        structure = self._write_structure(
            [sketches[node.name] for sketches in self._sketches], leaves, node
        )
        try:
            args = tuple(self.write_value(arg) for arg in node.args)
            kwargs = {key: self.write_value(value) for key, value in node.kwargs.items()}
        except Unwritable as exc:
            raise Unsuitable(f"{find_line(node)}: {exc} is no argument that can be sent") from exc
        return Node(
            name=node.name,
            kind=kind,  # type: ignore[arg-type]
            target=target,
            args=args,
            kwargs=kwargs | ({"inplace": False} if kwargs.get("inplace") else {}),
            options=options,
            states=states,
            path=_find_path(node),
            leaves=tuple(leaves),
            structure=structure,
        )

    def _find_operation(self, node: Any) -> tuple[str, str]:
        """(kind, target) in the table."""
        name = str(node.target)
        if node.op == "call_module":
            module = self._traced.root.get_submodule(node.target)
            if is_leaf(module):
                return "module", type(module).__name__
            name = type(module).__name__
        elif node.op == "call_method":
            target = name.removesuffix("_")
            if target in METHODS:
                return "method", target
        elif found := name_function(node.target) or _name_pure(node.target):
            return found
        raise Unsuitable(
            f"{find_line(node)}: {name} is not among the operations that parts compute"
        )

    def write_value(self, value: Any) -> Any:
        """An argument, in which nodes, states and numbers that follow from the batch are named."""
        return write_argument(value, self._write_reference)

    def _write_reference(self, value: Any) -> Any:
        name = getattr(value, "name", None)
        if not hasattr(value, "users") or name is None:
            raise Unwritable(f"a {type(value).__name__}")
        if name in self._traced.states:
            tensor = self._traced.states[name]
            return {"state": self.states.add(self._traced.names[name], tensor)}
        if has_tensor(self._sketches[0][name]):
            return {"node": name}
        return self._fold([sketches[name] for sketches in self._sketches], value)

    def _fold(self, values: Sequence[Any], node: Any) -> Any:
        """What is no tensor, from its values at every batch size."""
        first = values[0]
        if isinstance(first, tuple | list):
            items = [self._fold(column, node) for column in zip(*values, strict=True)]
            return {"tuple": items} if isinstance(first, tuple) else items
        if isinstance(first, int) and not isinstance(first, bool):
            dim = self._find_dim(values, node)
            return {"size": [dim.per_batch, dim.constant]} if dim.per_batch else dim.constant
        if any(value != first for value in values):
            raise Unsuitable(f"{find_line(node)}: it depends on the batch in an unknown way")
        return self.write_value(first)

    def _find_dim(self, sizes: Sequence[int], node: Any) -> Dim:
        """A size from what it is at every batch size."""
        if len(sizes) == 1:
            return Dim(0, sizes[0])
        run = self._batches[1] - self._batches[0]
        dim = Dim((sizes[1] - sizes[0]) // run, 0)
        dim = Dim(dim.per_batch, sizes[0] - dim.per_batch * self._batches[0])
        if any(dim.at(n) != size for n, size in zip(self._batches, sizes, strict=True)):
            raise Unsuitable(f"{find_line(node)}: its size {list(sizes)} is not linear in the rows")
        return dim

    def find_spec(self, name: str) -> TensorSpec:
        """The tensor that an input is."""
        return self._make_spec([sketches[name] for sketches in self._sketches], None)

    def _make_spec(self, sketches: Sequence[Sketch], node: Any) -> TensorSpec:
        last = sketches[-1]
        if last.dtype not in ELEMENT_BYTES:
            raise Unsuitable(f"{find_line(node)}: tensors of {last.dtype} do not travel")
        columns = zip(*(found.shape for found in sketches), strict=True)
        shape = tuple(self._find_dim(column, node) for column in columns)
        return TensorSpec(shape=shape, dtype=last.dtype, order=last.order)

    def _write_structure(self, values: Sequence[Any], leaves: list[TensorSpec], node: Any) -> Any:
        """How a result is made of tensors, which are added to ``leaves``."""
        first = values[0]
        if isinstance(first, Sketch):
            leaves.append(self._make_spec(values, node))
            return {"leaf": len(leaves) - 1}
        if isinstance(first, tuple | list):
            columns = zip(*values, strict=True)
            items = [self._write_structure(column, leaves, node) for column in columns]
            return {"tuple": items} if isinstance(first, tuple) else items
        return self._fold(values, node)


def _name_pure(function: Any) -> tuple[str, str] | None:
    """The operation that does not change its argument, of one that does."""
    import torch

    if isinstance(function, torch._ops.OpOverload):
        name = function._schema.name.rpartition("::")[2].removesuffix("_")
        packet = getattr(torch.ops.aten, name, None)
        pure = getattr(packet, function._overloadname or "default", None)
        return name_function(pure) if pure is not None else None
    name = getattr(function, "__name__", "")
    pure = getattr(torch, name.removesuffix("_"), None) if name.endswith("_") else None
    return name_function(pure) if pure is not None else None


def _find_path(node: Any) -> str:
    """The module in whose code the operation stands, or that it is."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values()]
    return str(paths[-1]) if paths else ""
