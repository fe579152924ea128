"""A decoder block in ONNX: attention, then the MLP, each adding its result to the residual.

Nothing but the residual passes between the two, so that they can become graphs of their own.
What a family has and another has not (biases, norms of heads, fused products) shows in the
block's parameters. A member of a stage computes with the neurons that it owns: its result is a
term of a sum, to which the output's bias is added once, later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from partwise.model import Layer, Parameter
from partwise.model.families.family import KV_GROUP, MLP_UNIT
from partwise.part.onnx.graph import MICROSOFT, GraphWriter
from partwise.part.onnx.linear import LinearWriter, Weight, split_rows
from partwise.part.onnx.shape import Shape
from partwise.part.owned import Owned

Floats = NDArray[np.float32]


class Parameters(Protocol):
    """Where the values of parameters come from."""

    def read(self, parameter: Parameter) -> Floats:
        """The values of one, in fp32."""
        ...

    def read_matrices(self, parameters: Sequence[Parameter]) -> Weight:
        """Matrices with the same inputs as one."""
        ...

    def owned_of(self, parameter: Parameter) -> Owned:
        """The neurons of its layer to which what is read belongs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """The hidden state as the names of its two terms; ``pending`` is yet to be added, and with it
    a ``bias`` if it is not in it."""

    value: str
    pending: str | None = None
    bias: str | None = None


class BlockWriter:
    """Writes norms and halves of blocks into a graph; ``source`` gives parameters."""

    def __init__(
        self, graph: GraphWriter, linear: LinearWriter, shape: Shape, source: Parameters
    ) -> None:
        self._graph = graph
        self._linear = linear
        self._shape = shape
        self._source = source
        self._read = source.read

    def write_norm(self, parameter: Parameter, residual: Residual) -> tuple[str, Residual]:
        """The normed sum of the residual's terms, and the residual as one term."""
        weight = self._graph.weight(parameter.name, self._read(parameter))
        epsilon = self._shape.norm_epsilon
        if residual.pending is None:
            normed = self._norm(residual.value, weight)
            return normed, residual
        inputs = [residual.value, residual.pending, weight]
        inputs += [] if residual.bias is None else [residual.bias]
        normed, total = f"{parameter.name}.out", f"{parameter.name}.sum"
        self._graph.named_node(
            "SkipSimplifiedLayerNormalization", inputs, [normed, "", "", total],
            domain=MICROSOFT, epsilon=epsilon,
        )  # fmt: skip
        return normed, Residual(value=total)

    def write_sum(self, residual: Residual) -> str:
        """The hidden state itself."""
        terms = [residual.value, residual.pending, residual.bias]
        total, *others = [term for term in terms if term is not None]
        for term in others:
            (total,) = self._graph.node("Add", [total, term])
        return total

    def write_attention(self, layer: Layer, index: int, residual: Residual) -> Residual:
        """Attention of ``layer``, which is the block ``index`` of the part, over its past."""
        has, shape = _by_suffix(layer), self._shape
        owned = self._source.owned_of(has["self_attn.o_proj.weight"])
        num_groups = owned.count(KV_GROUP, shape.num_kv_heads)
        normed, residual = self.write_norm(has["input_layernorm.weight"], residual)
        packed = self._project(layer, normed, "qkv_proj", ("q_proj", "k_proj", "v_proj"))
        heads = [packed, "", ""]
        if "self_attn.q_norm.weight" in has:
            heads = self._norm_heads(layer, packed, num_groups)
        attended = f"attended_{index}"
        past = [f"past_{index}_key", f"past_{index}_value"]
        self._graph.named_node(
            "GroupQueryAttention",
            [*heads, *past, "lengths", "total", "cosines", "sines"],
            [attended, f"present_{index}_key", f"present_{index}_value"],
            domain=MICROSOFT,
            num_heads=num_groups * shape.heads_per_group,
            kv_num_heads=num_groups,
            scale=shape.head_size**-0.5,
            do_rotary=1,
        )
        pending = self._sum_up(layer, attended, "o_proj", is_term=owned.is_split(KV_GROUP))
        return Residual(value=residual.value, pending=pending)

    def write_mlp(self, layer: Layer, residual: Residual) -> Residual:
        """The gated MLP of ``layer``."""
        has = _by_suffix(layer)
        owned = self._source.owned_of(has["mlp.down_proj.weight"])
        normed, residual = self.write_norm(has["post_attention_layernorm.weight"], residual)
        gate, up = self._gate_and_up(layer, normed)
        (gate,) = self._graph.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0)
        (product,) = self._graph.node("Mul", [gate, up])
        pending = self._sum_up(layer, product, "down_proj", is_term=owned.is_split(MLP_UNIT))
        return Residual(value=residual.value, pending=pending)

    def write_head(self, layer: Layer, value: str) -> str:
        """The logits of ``value``."""
        return self._linear.write(
            layer.name, value, self._source.read_matrices(layer.parameters), None
        )

    def _gate_and_up(self, layer: Layer, value: str) -> list[str]:
        """Two products, also where the model holds them fused: splitting the result of one takes
        longer than calling two."""
        has = _by_suffix(layer)
        names = ("mlp.gate_proj", "mlp.up_proj")
        if "mlp.gate_up_proj.weight" not in has:
            return [self._project(layer, value, name.removeprefix("mlp."), ()) for name in names]
        fused = self._source.read_matrices([has["mlp.gate_up_proj.weight"]])
        return [
            self._linear.write(f"{layer.name}.{name}", value, weight, None)
            for name, weight in zip(names, split_rows(fused, 2), strict=True)
        ]

    def _norm(self, value: str, weight: str) -> str:
        return self._graph.node(
            "SimplifiedLayerNormalization", [value, weight],
            axis=-1, epsilon=self._shape.norm_epsilon, stash_type=1,
        )[0]  # fmt: skip

    def _norm_heads(self, layer: Layer, packed: str, num_groups: int) -> list[str]:
        """Query, key and value of a product of all three, the first two with their heads normed."""
        shape, has = self._shape, _by_suffix(layer)
        counts = [num_groups * shape.heads_per_group, num_groups, num_groups]
        widths = np.array([count * shape.head_size for count in counts], np.int64)
        sizes = self._graph.weight(f"{layer.name}.widths", widths)
        query, key, value = self._graph.node("Split", [packed, sizes], outputs=3, axis=-1)
        heads = []
        for name, part, count in (("q_norm", query, counts[0]), ("k_norm", key, counts[1])):
            parameter = has[f"self_attn.{name}.weight"]
            weight = self._graph.weight(parameter.name, self._read(parameter))
            split = self._reshape(f"{parameter.name}.heads", part, (0, 0, count, shape.head_size))
            normed = self._norm(split, weight)
            heads.append(self._reshape(f"{parameter.name}.joined", normed, (0, 0, -1)))
        return [*heads, value]

    def _reshape(self, name: str, value: str, sizes: tuple[int, ...]) -> str:
        wanted = self._graph.weight(name, np.array(sizes, np.int64))
        return self._graph.node("Reshape", [value, wanted])[0]

    def _project(self, layer: Layer, value: str, fused: str, apart: tuple[str, ...]) -> str:
        """One product with the projection ``fused``, or with those that the model holds apart."""
        has, half = _by_suffix(layer), _half_of(fused)
        names = [f"{half}.{fused}"]
        if f"{names[0]}.weight" not in has:
            names = [f"{half}.{name}" for name in apart]
        weight = self._source.read_matrices([has[f"{name}.weight"] for name in names])
        biases = [self._read(has[f"{name}.bias"]) for name in names if f"{name}.bias" in has]
        bias = np.concatenate(biases) if biases else None
        return self._linear.write(f"{layer.name}.{half}.{fused}", value, weight, bias)

    def _sum_up(self, layer: Layer, value: str, name: str, *, is_term: bool) -> str:
        """The output of a half block; ``is_term``: what these neurons add to it, without a bias."""
        if not is_term:
            return self._project(layer, value, name, ())
        full = f"{_half_of(name)}.{name}"
        weight = self._source.read_matrices([_by_suffix(layer)[f"{full}.weight"]])
        return self._linear.write(f"{layer.name}.{full}", value, weight, None)


def _half_of(projection: str) -> str:
    """Where the parameters of a block lie that have a projection."""
    return "self_attn" if projection in ("qkv_proj", "o_proj") else "mlp"


def _by_suffix(layer: Layer) -> dict[str, Parameter]:
    """The parameters by their names within the block."""
    return {p.name.removeprefix(layer.name + "."): p for p in layer.parameters}
