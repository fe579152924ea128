"""From a part's layers in the store to its graph, layer by layer.

No more than one layer's parameters are in memory at a time.

Shapes: B rows, T tokens of each, R tokens whose logits are wanted, C capacity of the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.model import Layer, LayerKind, Model, Parameter
from partwise.part.onnx.block import BlockWriter, Residual
from partwise.part.onnx.graph import GraphWriter
from partwise.part.onnx.linear import LinearWriter, Weight, join_rows
from partwise.part.onnx.rotary import rotary_tables
from partwise.part.onnx.rounding import Rounding
from partwise.part.onnx.shape import Shape
from partwise.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a graph is built from: ``layers`` of the model, at a precision.

    ``on_read`` is called with the elements of each parameter that was read, and may raise.
    """

    model: Model
    config: Mapping[str, Any]
    layers: Sequence[Layer]
    rounding: Rounding
    store: Store
    on_read: Callable[[int], None]

    def read_matrices(self, parameters: Sequence[Parameter]) -> Weight:
        """Matrices with the same inputs as one: as they lie in the store, where they are rounded
        alike in a version of this precision, else in fp32."""
        names = [parameter.stored_name for parameter in parameters]
        stored = [self.store.read_quantized(name) for name in names if self._keeps_stored]
        rounded = [one for one in stored if one]
        kinds = {
            (one.bits, one.block, None if one.zero_points is None else one.zero_points.dtype)
            for one in rounded
        }
        if len(rounded) == len(names) and len(kinds) == 1:
            self.on_read(sum(parameter.num_elements for parameter in parameters))
            return join_rows(rounded)
        read = [self.read(parameter) for parameter in parameters]
        return read[0] if len(read) == 1 else np.concatenate(read)

    @property
    def _keeps_stored(self) -> bool:
        """Whether some matrices are stored at this precision: then others are at more bits with a
        purpose."""
        stored = self.store.manifest.quantized.values()
        return self.rounding.is_rounded and any(s.bits == self.rounding.bits for s in stored)

    def read(self, parameter: Parameter) -> NDArray[np.float32]:
        """The values of a parameter."""
        values = self.store.read(parameter.stored_name)
        self.on_read(parameter.num_elements)
        return values


def write_graph(graph: GraphWriter, source: Source) -> None:
    """Write all layers but the embedding, which is looked up outside, into ``graph``.

    Inputs: ``hidden`` (B, T, width); with blocks ``lengths`` int32 (B), the tokens of each row
    so far and new less one, ``total`` int32 (), the largest of them plus one, and the caches;
    with a head ``asking`` int64 (R), the tokens, counted over all rows, whose logits are
    wanted. Output: ``out`` (B, T, width), or with a head (R, vocabulary).
    """
    shape = Shape.read(source.model, source.config)
    writer = BlockWriter(graph, LinearWriter(graph, source.rounding), shape, source)
    residual = Residual(value=graph.input("hidden", ("B", "T", shape.hidden_size)))
    blocks = [layer for layer in source.layers if layer.kind is LayerKind.BLOCK]
    if blocks:
        _declare_caches(graph, source, shape, len(blocks))
    for index, layer in enumerate(blocks):
        residual = writer.write_attention(layer, index, residual)
        residual = writer.write_mlp(layer, residual)
    _write_end(graph, source, writer, residual)


def _write_end(graph: GraphWriter, source: Source, writer: BlockWriter, residual: Residual) -> None:
    """The layers after the blocks, and the output."""
    by_kind = {layer.kind: layer for layer in source.layers}
    norm, head = by_kind.get(LayerKind.NORM), by_kind.get(LayerKind.HEAD)
    width: int = source.model.hidden_size
    if head is not None:
        residual = Residual(value=_gather_asking(graph, writer.write_sum(residual), width))
    if norm is not None:
        normed, _ = writer.write_norm(norm.parameters[0], residual)
        residual = Residual(value=normed)
    value = writer.write_sum(residual)
    if head is not None:
        value = writer.write_head(head, value)
    graph.named_node("Identity", [value], ["out"])
    graph.output("out", ("R", source.model.vocab_size) if head else ("B", "T", width))


def _gather_asking(graph: GraphWriter, value: str, width: int) -> str:
    """The tokens that ask for logits, of all rows."""
    asking = graph.input("asking", ("R",), "int64")
    flat = graph.weight("flat", np.array([-1, width], np.int64))
    (tokens,) = graph.node("Reshape", [value, flat])
    return graph.node("Gather", [tokens, asking], axis=0)[0]


def _declare_caches(graph: GraphWriter, source: Source, shape: Shape, num_blocks: int) -> None:
    graph.input("lengths", ("B",), "int32")
    graph.input("total", (), "int32")
    cosines, sines = rotary_tables(source.config, shape.head_size, shape.context_tokens)
    graph.weight("cosines", cosines)
    graph.weight("sines", sines)
    cache = ("B", shape.num_kv_heads, "C", shape.head_size)
    for index in range(num_blocks):
        for name in (f"{index}_key", f"{index}_value"):
            graph.input(f"past_{name}", cache)
            graph.output(f"present_{name}", cache)
