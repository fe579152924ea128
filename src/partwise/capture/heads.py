"""Attention of torch by heads: what a member computes of `torch.nn.MultiheadAttention`.

Where its heads are shared, the layer is written out: queries, keys and values of the heads that a
member owns, their attention, and the projection of all heads, which every member computes. Where
it is held whole it is called as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from partwise.capture.graph import Dim, Graph, Node, TensorSpec
from partwise.capture.values import Values, list_read
from partwise.capture.weighted import Weighted
from partwise.model import NeuronAxis

KIND = "head"
_PROJECTIONS = ("query", "key", "value")
_PLAIN = ("need_weights", "average_attn_weights")
"""Arguments that change nothing of its first result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Self-attention of ``count`` heads over ``source``, as the node ``node``; of its results
    ``result`` takes the first, and nothing else is read."""

    node: Node
    result: Node
    source: str
    count: int
    width: int

    @property
    def axes(self) -> dict[str, tuple[NeuronAxis, ...]]:
        """Where the heads lie in its parameters: in queries, keys and values alike."""
        total = self.count * self.width
        axes = tuple(
            NeuronAxis(kind=KIND, axis=0, width=self.width, offset=i * total)
            for i in range(len(_PROJECTIONS))
        )
        names = (self.node.states.get(name) for name in ("in_proj_weight", "in_proj_bias"))
        return {name: axes for name in names if name is not None}


def find_heads(node: Node, values: Values) -> Heads | None:
    """``node`` as attention whose heads can be shared; None where it is none."""
    if node.kind != "module" or node.target != "MultiheadAttention":
        return None
    read = list_read(node)
    is_self = len(node.args) == len(_PROJECTIONS) and all(a == {"node": read[0]} for a in node.args)
    is_plain = set(node.kwargs) <= set(_PLAIN) and node.options["batch_first"] is True
    users = values.users(node.name)
    is_first = len(users) == 1 and users[0].target.endswith("getitem") and users[0].args[1] == 0
    if not (is_self and is_plain and is_first and "in_proj_weight" in node.states):
        return None
    count, total = node.options["num_heads"], node.options["embed_dim"]
    spec = users[0].spec
    own = [name for name in node.states.values() if values.num_uses[name] > 1]
    if own or spec is None or len(spec.shape) != len(_PROJECTIONS):
        return None
    return Heads(
        node=node, result=users[0], source=read[0], count=count, width=total // count
    )  # fmt: skip


def write_out(heads: Heads) -> tuple[list[Node], dict[str, Weighted]]:
    """The operations of ``heads`` one by one, of which the last has the name of ``result``; and
    those of them that have the heads as neurons."""
    spec = heads.result.spec
    assert spec is not None
    batch, tokens, total = spec.shape
    apart = _make_spec(spec, (batch, tokens, Dim(0, heads.count), Dim(0, heads.width)))
    swapped = _make_spec(spec, (batch, Dim(0, heads.count), tokens, Dim(0, heads.width)))
    weight = heads.node.states["in_proj_weight"]
    bias = heads.node.states.get("in_proj_bias")
    nodes, weighted = [], {}
    for i, what in enumerate(_PROJECTIONS):
        name = f"{heads.node.name}.{what}"
        linear = _call(name, "torch.nn.functional.linear",
                       [{"node": heads.source}, _refer(weight), _refer(bias)], spec)  # fmt: skip
        weighted[name] = Weighted(
            node=linear, kind=KIND, count=total.constant, axis=2, weight=weight, weight_axis=0,
            bias=bias, source=heads.source, source_axis=2, offset=i * total.constant,
            width=heads.width,
        )  # fmt: skip
        view = _reshape(f"{name}.heads", name, apart)
        nodes += [linear, view, _transpose(f"{name}.first", view.name, swapped)]
    inputs = [{"node": f"{heads.node.name}.{what}.first"} for what in _PROJECTIONS]
    attention = "torch.nn.functional.scaled_dot_product_attention"
    attended = _call(f"{heads.node.name}.attended", attention, inputs, swapped)
    back = _transpose(f"{heads.node.name}.back", attended.name, apart)
    joined = _reshape(f"{heads.node.name}.joined", back.name, spec)
    out = [heads.node.states["out_proj.weight"], heads.node.states.get("out_proj.bias")]
    last = _call(heads.result.name, "torch.nn.functional.linear",
                 [{"node": joined.name}, *map(_refer, out)], spec)  # fmt: skip
    return [*nodes, attended, back, joined, last], weighted


def replace_nodes(graph: Graph, replaced: dict[str, list[Node]]) -> Graph:
    """``graph`` with other nodes in the place of some, by name."""
    nodes = [new for node in graph.nodes for new in replaced.get(node.name, [node])]
    return msgspec.structs.replace(graph, nodes=tuple(nodes))


def _refer(state: str | None) -> Any:
    return {"state": state} if state is not None else None


def _call(name: str, target: str, args: list[Any], spec: TensorSpec) -> Node:
    return Node(
        name=name, kind="function", target=target, args=tuple(args), leaves=(spec,),
        structure={"leaf": 0},
    )  # fmt: skip


def _make_spec(like: TensorSpec, shape: tuple[Dim, ...]) -> TensorSpec:
    return TensorSpec(shape=shape, dtype=like.dtype, order=tuple(range(len(shape))))


def _reshape(name: str, source: str, spec: TensorSpec) -> Node:
    sizes = [{"size": [dim.per_batch, dim.constant]} for dim in spec.shape]
    return _call(name, "torch.reshape", [{"node": source}, sizes], spec)


def _transpose(name: str, source: str, spec: TensorSpec) -> Node:
    return _call(name, "torch.transpose", [{"node": source}, 1, 2], spec)
