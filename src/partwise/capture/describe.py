"""A captured module described as any other model: layers, cuts, neurons, what they cost.

A layer is a run of operations that begins with one that has parameters. What crosses the cut
before it are the values that were there before and are read from it on: one tensor or several.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partwise.capture.graph import Graph, Node, encode_graph
from partwise.capture.heads import KIND as HEAD
from partwise.capture.heads import Heads, find_heads
from partwise.capture.values import Values, list_read, list_states
from partwise.capture.weighted import Weighted, find_weighted
from partwise.model import CutTensor, Layer, LayerKind, Model, NeuronAxis, NeuronKind, Parameter

STORED = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
LONG_LIST = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The operations of one layer; ``split`` is the one with neurons, if any is."""

    name: str
    nodes: tuple[Node, ...]
    split: Weighted | Heads | None

    @property
    def neuron_kind(self) -> NeuronKind | None:
        """The neurons that members can share."""
        if self.split is None:
            return None
        kind = HEAD if isinstance(self.split, Heads) else self.split.kind
        return NeuronKind(name=kind, count=self.split.count)


def list_sections(graph: Graph) -> list[Section]:
    """The layers of ``graph``, in the order of computing."""
    values = Values(graph)
    runs: list[list[Node]] = []
    has_begun = False
    for node in graph.nodes:
        has_parameters = any(values.states[name].is_parameter for name in list_states(node))
        if not runs or (has_parameters and has_begun):
            runs.append([])
        has_begun |= has_parameters
        runs[-1].append(node)
    names: set[str] = set()
    return [_make_section(run, values, names) for run in runs]


def _make_section(run: Sequence[Node], values: Values, names: set[str]) -> Section:
    first = next((node for node in run if list_states(node)), run[0])
    name = first.path or first.name
    if name in names:
        name = first.name if first.name not in names else f"{name}.{first.name}"
    names.add(name)
    found = [f for node in run if (f := _find_split(node, values)) is not None]
    return Section(name=name, nodes=tuple(run), split=found[0] if found else None)


def _find_split(node: Node, values: Values) -> Weighted | Heads | None:
    return find_weighted(node, values) or find_heads(node, values)


def describe_graph(graph: Graph) -> Model:
    """The model that ``graph`` is."""
    values = Values(graph)
    sections = list_sections(graph)
    seen: set[str] = set()
    layers = tuple(_describe_layer(section, values, seen) for section in sections)
    cuts = _list_cuts(graph, sections, values)
    width = max((sum(tensor.width for tensor in cut) for cut in cuts), default=1)
    return Model(
        name=graph.name,
        architecture=f"module {graph.name}",
        layers=layers,
        cut_tensors=(CutTensor(name="widest cut", width=max(1, width)),),
        cuts=cuts,
        context_tokens=1,
        vocab_size=1,
        hidden_size=max(1, width),
        config_digest=hashlib.sha256(encode_graph(graph)).hexdigest(),
    )


def note_whole(graph: Graph) -> list[str]:
    """What a plan with members says of layers that they cannot share by neurons: they are held
    whole. (Where such a layer computes each channel by itself, as batch norms do, each member
    computes its own all the same.)"""
    whole = [s.name for s in list_sections(graph) if s.split is None]
    if not whole:
        return []
    more = f" and {len(whole) - LONG_LIST} more" if len(whole) > LONG_LIST else ""
    named = ", ".join(whole[:LONG_LIST])
    return [f"layers without neurons to share, whose parameters every member holds: {named}{more}"]


def _describe_layer(section: Section, values: Values, seen: set[str]) -> Layer:
    kind = section.neuron_kind
    axes = section.split.axes if section.split is not None else {}
    parameters, macs = [], 0
    for node in section.nodes:
        for name in list_states(node):
            if values.states[name].is_parameter:
                parameters.append(_describe_parameter(name, node, axes, values, seen))
                macs += _count_macs(name, node, values)
    elements = sum(parameter.num_elements for parameter in parameters)
    is_table = kind is not None and kind.name == "column"
    return Layer(
        name=section.name,
        kind=LayerKind.BLOCK,
        parameters=tuple(parameters),
        neuron_kinds=() if kind is None else (kind,),
        macs_per_token=0 if is_table else macs,
        read_elements_per_token=kind.count if kind is not None and is_table else elements,
    )


def _describe_parameter(
    name: str,
    node: Node,
    axes: Mapping[str, tuple[NeuronAxis, ...]],
    values: Values,
    seen: set[str],
) -> Parameter:
    """A parameter; where another layer has it already, an alias with a name of its own."""
    state = values.states[name]
    is_alias = name in seen
    number = sum(other.startswith(f"{name}@") for other in seen)
    own_name = f"{name}@{node.name}.{number}" if is_alias else name
    seen.add(own_name)
    return Parameter(
        name=own_name,
        shape=state.shape,
        dtype=STORED.get(state.dtype, "F32"),
        neurons=axes.get(name, ()),
        alias_of=name if is_alias else None,
    )


def _count_macs(name: str, node: Node, values: Values) -> int:
    """Multiplications of a row with a matrix or kernel, each weight once for every place of the
    result."""
    shape, spec = values.states[name].shape, next(iter(node.leaves), None)
    if len(shape) == 1 or spec is None:
        return 0
    width = spec.shape[-1].constant if node.target == "MultiheadAttention" else shape[0]
    return math.prod(shape) * max(1, spec.num_elements(1) // max(1, width))


def _list_cuts(
    graph: Graph, sections: Sequence[Section], values: Values
) -> tuple[tuple[CutTensor, ...], ...]:
    """The tensors that cross the cut before each layer, and last those that are the results."""
    last_reader: dict[str, int] = dict.fromkeys(values.outputs, len(sections))
    for i in reversed(range(len(sections))):
        for name in (name for node in sections[i].nodes for name in list_read(node)):
            last_reader[name] = max(i, last_reader.get(name, 0))
    made = [entry.name for entry in graph.inputs]
    cuts = []
    for i in range(len(sections) + 1):
        crossing = [name for name in made if last_reader.get(name, -1) >= i]
        cuts.append(tuple(t for name in crossing for t in _list_tensors(name, values)))
        if i < len(sections):
            made += [node.name for node in sections[i].nodes]
    return tuple(cuts)


def _list_tensors(name: str, values: Values) -> list[CutTensor]:
    leaves = values.leaves(name)
    names = [name] if len(leaves) == 1 else [f"{name}.{i}" for i in range(len(leaves))]
    return [
        CutTensor(
            name=own,
            width=leaf.num_elements(1),
            shape=tuple(None if dim.per_batch else dim.constant for dim in leaf.shape),
            dtype=leaf.dtype,
        )
        for own, leaf in zip(names, leaves, strict=True)
    ]
