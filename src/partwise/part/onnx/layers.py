"""From a part's layers in the store to its graph, layer by layer.

No more than one layer's parameters are in memory at a time.

Shapes: B rows, T tokens of each, R tokens whose logits are wanted, C capacity of the caches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from partwise.model import Layer, LayerKind, Model, Parameter
from partwise.model.families.family import VOCABULARY_ROW
from partwise.part.onnx.block import BlockWriter, Residual
from partwise.part.onnx.graph import GraphWriter
from partwise.part.onnx.linear import LinearWriter, Weight
from partwise.part.onnx.pieces import cut, join_rows
from partwise.part.onnx.rotary import rotary_tables
from partwise.part.onnx.rounding import Rounding
from partwise.part.onnx.shape import Shape
from partwise.part.onnx.shares import ALL
from partwise.part.owned import Owned, read_owned
from partwise.store import Quantized, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a graph is built from: ``layers`` of the model, at a precision.

    ``owned`` says what of a parameter, by name; it is all of those that are left out. ``on_read``
    is called with the elements of each parameter that was read, and may raise.
    """

    model: Model
    config: Mapping[str, Any]
    layers: Sequence[Layer]
    rounding: Rounding
    store: Store
    on_read: Callable[[int], None]
    owned: Mapping[str, Owned] = field(default_factory=dict)

    def owned_of(self, parameter: Parameter) -> Owned:
        """The neurons that are owned of the layer of ``parameter``."""
        return self.owned.get(parameter.name, ALL)

    def read_matrices(self, parameters: Sequence[Parameter]) -> Weight:
        """Matrices with the same inputs as one: as they lie in the store, where they are rounded
        alike in a version of this precision, else in fp32."""
        stored = [self._read_stored(one) for one in parameters if self._keeps_stored]
        rounded = [one for one in stored if one]
        kinds = {
            (one.bits, one.block, None if one.zero_points is None else one.zero_points.dtype)
            for one in rounded
        }
        if len(rounded) == len(parameters) and len(kinds) == 1:
            joined = join_rows(rounded)
            self.on_read(math.prod(joined.shape))
            return joined
        read = [self.read(parameter) for parameter in parameters]
        return read[0] if len(read) == 1 else np.concatenate(read)

    @property
    def _keeps_stored(self) -> bool:
        """Whether some matrices are stored at this precision: then others are at more bits with a
        purpose."""
        stored = self.store.manifest.quantized.values()
        return self.rounding.is_rounded and any(s.bits == self.rounding.bits for s in stored)

    def _read_stored(self, parameter: Parameter) -> Quantized | None:
        """A matrix as it lies in the store, if it is rounded there."""
        whole = self.store.read_quantized(parameter.stored_name)
        if whole is None or parameter.name not in self.owned:
            return whole
        return cut(whole, self.owned_of(parameter).slices(parameter))

    def read(self, parameter: Parameter) -> NDArray[np.float32]:
        """The values of a parameter."""
        if parameter.name in self.owned:
            values = read_owned(self.store, parameter, self.owned_of(parameter))
        else:
            values = self.store.read(parameter.stored_name)
        self.on_read(values.size)
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
    write_end(graph, source, writer, residual)


def write_end(graph: GraphWriter, source: Source, writer: BlockWriter, residual: Residual) -> None:
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
    graph.output("out", ("R", _count_logits(source, head)) if head else ("B", "T", width))


def _count_logits(source: Source, head: Layer) -> int:
    owned = source.owned_of(head.parameters[0])
    return owned.count(VOCABULARY_ROW, source.model.vocab_size)


def _gather_asking(graph: GraphWriter, value: str, width: int) -> str:
    """The tokens that ask for logits, of all rows."""
    asking = graph.input("asking", ("R",), "int64")
    flat = graph.weight("flat", np.array([-1, width], np.int64))
    (tokens,) = graph.node("Reshape", [value, flat])
    return graph.node("Gather", [tokens, asking], axis=0)[0]


def _declare_caches(graph: GraphWriter, source: Source, shape: Shape, num_blocks: int) -> None:
    declare_positions(graph, store_rotary(graph, source, shape))
    for index in range(num_blocks):
        declare_cache(graph, index, shape.num_kv_heads, shape.head_size)


def store_rotary(graph: GraphWriter, source: Source, shape: Shape) -> list[TensorProto]:
    """The tables of rotary positions, for every graph with blocks."""
    tables = rotary_tables(source.config, shape.head_size, shape.context_tokens)
    names = ("cosines", "sines")
    return [graph.store(name, table) for name, table in zip(names, tables, strict=True)]


def declare_positions(graph: GraphWriter, rotary: Sequence[TensorProto]) -> None:
    """What all blocks of a graph want to know of the rows."""
    graph.input("lengths", ("B",), "int32")
    graph.input("total", (), "int32")
    for table in rotary:
        graph.use(table)


def declare_cache(graph: GraphWriter, index: int, num_heads: int, head_size: int) -> None:
    """The cache of the block ``index``, of so many KV heads."""
    cache = ("B", num_heads, "C", head_size)
    for name in (f"{index}_key", f"{index}_value"):
        graph.input(f"past_{name}", cache)
        graph.output(f"present_{name}", cache)
