"""A decoder block in ONNX: attention, then the MLP, each adding its result to the residual.

Nothing but the residual passes between the two, so that they can become graphs of their own.
What a family has and another has not (biases, norms of heads, fused products) shows in the
block's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from partwise.model import Layer, Parameter
from partwise.part.onnx.graph import MICROSOFT, GraphWriter
from partwise.part.onnx.linear import LinearWriter, Weight, split_rows
from partwise.part.onnx.shape import Shape

Floats = NDArray[np.float32]


class Parameters(Protocol):
    """Where the values of parameters come from."""

    def read(self, parameter: Parameter) -> Floats:
        """The values of one, in fp32."""
        ...

    def read_matrices(self, parameters: Sequence[Parameter]) -> Weight:
        """Matrices with the same inputs as one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """The hidden state as the names of its two terms; ``pending`` is yet to be added."""

    value: str
    pending: str | None = None


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
        normed, total = f"{parameter.name}.out", f"{parameter.name}.sum"
        self._graph.named_node(
            "SkipSimplifiedLayerNormalization", inputs, [normed, "", "", total],
            domain=MICROSOFT, epsilon=epsilon,
        )  # fmt: skip
        return normed, Residual(value=total)

    def write_sum(self, residual: Residual) -> str:
        """The hidden state itself."""
        if residual.pending is None:
            return residual.value
        return self._graph.node("Add", [residual.value, residual.pending])[0]

    def write_attention(self, layer: Layer, index: int, residual: Residual) -> Residual:
        """Attention of ``layer``, which is the block ``index`` of the part, over its past."""
        has = _by_suffix(layer)
        normed, residual = self.write_norm(has["input_layernorm.weight"], residual)
        packed = self._project(layer, normed, "qkv_proj", ("q_proj", "k_proj", "v_proj"))
        heads = [packed, "", ""]
        if "self_attn.q_norm.weight" in has:
            heads = self._norm_heads(layer, packed)
        attended, shape = f"attended_{index}", self._shape
        past = [f"past_{index}_key", f"past_{index}_value"]
        self._graph.named_node(
            "GroupQueryAttention",
            [*heads, *past, "lengths", "total", "cosines", "sines"],
            [attended, f"present_{index}_key", f"present_{index}_value"],
            domain=MICROSOFT,
            num_heads=shape.num_heads,
            kv_num_heads=shape.num_kv_heads,
            scale=shape.head_size**-0.5,
            do_rotary=1,
        )
        return Residual(value=residual.value, pending=self._project(layer, attended, "o_proj", ()))

    def write_mlp(self, layer: Layer, residual: Residual) -> Residual:
        """The gated MLP of ``layer``."""
        normed, residual = self.write_norm(
            _by_suffix(layer)["post_attention_layernorm.weight"], residual
        )
        gate, up = self._gate_and_up(layer, normed)
        (gate,) = self._graph.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0)
        (product,) = self._graph.node("Mul", [gate, up])
        return Residual(
            value=residual.value, pending=self._project(layer, product, "down_proj", ())
        )

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

    def _norm_heads(self, layer: Layer, packed: str) -> list[str]:
        """Query, key and value of a product of all three, the first two with their heads normed."""
        shape, has = self._shape, _by_suffix(layer)
        counts = [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads]
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
        has = _by_suffix(layer)
        half = "self_attn" if fused in ("qkv_proj", "o_proj") else "mlp"
        names = [f"{half}.{fused}"]
        if f"{names[0]}.weight" not in has:
            names = [f"{half}.{name}" for name in apart]
        weight = self._source.read_matrices([has[f"{name}.weight"] for name in names])
        biases = [self._read(has[f"{name}.bias"]) for name in names if f"{name}.bias" in has]
        bias = np.concatenate(biases) if biases else None
        return self._linear.write(f"{layer.name}.{half}.{fused}", value, weight, bias)


def _by_suffix(layer: Layer) -> dict[str, Parameter]:
    """The parameters by their names within the block."""
    return {p.name.removeprefix(layer.name + "."): p for p in layer.parameters}
