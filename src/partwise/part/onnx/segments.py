"""What a member computes of its stage, as graphs: cut where the members exchange partial sums.

Inputs of each graph, as far as it needs them: those of `write_graph`, and ``pending``
(B, T, width), the sum of all members' partial sums. Every graph that is followed by an exchange
has the outputs ``residual`` (B, T, width), the next graph's ``hidden``, and ``partial``
(B, T, width), this member's term of the next sum: none where it owns no neurons there. The last
one has ``out``; there is none where all that would be left is a head without rows.

Halves of blocks that the members do not split are in the graph of what comes next to them.
"""

from __future__ import annotations

from onnx import TensorProto

from partwise.model import Layer, LayerKind, Parameter
from partwise.model.families.family import KV_GROUP, MLP_UNIT, VOCABULARY_ROW
from partwise.part.onnx.block import BlockWriter, Residual
from partwise.part.onnx.graph import GraphWriter, HashedFile
from partwise.part.onnx.layers import (
    Source,
    declare_cache,
    declare_positions,
    store_rotary,
    write_end,
)
from partwise.part.onnx.linear import LinearWriter
from partwise.part.onnx.shape import Shape


def write_segments(file: HashedFile, name: str, source: Source) -> list[GraphWriter]:
    """Write all layers but the embedding as graphs with one weights' ``file`` called ``name``."""
    writer = SegmentWriter(file, name, source)
    for layer in source.layers:
        if layer.kind is LayerKind.BLOCK:
            writer.write_attention(layer)
            writer.write_mlp(layer)
    writer.write_end()
    return writer.graphs


class SegmentWriter:
    """Writes one graph after the other; ``graphs`` are those that are whole."""

    def __init__(self, file: HashedFile, name: str, source: Source) -> None:
        self.graphs: list[GraphWriter] = []
        self._file = file
        self._name = name
        self._source = source
        self._shape = Shape.read(source.model, source.config)
        self._rotary: list[TensorProto] = []
        self._num_caches = 0
        self._residual: Residual
        self._begin()

    def write_attention(self, layer: Layer) -> None:
        """Attention with the KV groups that the member owns."""
        output = _find(layer, "self_attn.o_proj.weight")
        owned = self._source.owned_of(output)
        num_groups = owned.count(KV_GROUP, self._shape.num_kv_heads)
        if num_groups:
            self._declare_cache(num_groups)
            index = self._num_caches - 1
            self._residual = self._writer.write_attention(layer, index, self._residual)
        if owned.is_split(KV_GROUP):
            self._cut(has_partial=bool(num_groups))
            self._expect_sum(layer, "self_attn.o_proj.bias")

    def write_mlp(self, layer: Layer) -> None:
        """The MLP with the units that the member owns."""
        output = _find(layer, "mlp.down_proj.weight")
        owned = self._source.owned_of(output)
        num_units = owned.count(MLP_UNIT, output.shape[1])
        if num_units:
            self._residual = self._writer.write_mlp(layer, self._residual)
        if owned.is_split(MLP_UNIT):
            self._cut(has_partial=bool(num_units))
            self._expect_sum(layer, "mlp.down_proj.bias")

    def write_end(self) -> None:
        """What comes after the blocks, with the rows of the head that the member owns."""
        heads = [layer for layer in self._source.layers if layer.kind is LayerKind.HEAD]
        rows = [parameter for layer in heads for parameter in layer.parameters]
        if all(self._source.owned_of(p).count(VOCABULARY_ROW, p.shape[0]) for p in rows):
            write_end(self._graph, self._source, self._writer, self._residual)
            self.graphs.append(self._graph)

    def _begin(self) -> None:
        self._graph = GraphWriter(self._file, self._name)
        linear = LinearWriter(self._graph, self._source.rounding)
        self._writer = BlockWriter(self._graph, linear, self._shape, self._source)
        self._has_positions = False
        hidden = self._graph.input("hidden", ("B", "T", self._shape.hidden_size))
        self._residual = Residual(value=hidden)

    def _declare_cache(self, num_groups: int) -> None:
        if not self._has_positions:
            self._rotary = self._rotary or store_rotary(self._graph, self._source, self._shape)
            declare_positions(self._graph, self._rotary)
            self._has_positions = True
        declare_cache(self._graph, self._num_caches, num_groups, self._shape.head_size)
        self._num_caches += 1

    def _cut(self, *, has_partial: bool) -> None:
        """Give out what the half that was written last adds, and all that comes before it."""
        value, partial = self._residual.value, self._residual.pending
        if not has_partial:
            value = self._writer.write_sum(self._residual)
        outputs = {"residual": value, "partial": partial} if has_partial else {"residual": value}
        for name, computed in outputs.items():
            assert computed is not None
            self._graph.named_node("Identity", [computed], [name])
            self._graph.output(name, ("B", "T", self._shape.hidden_size))
        self.graphs.append(self._graph)

    def _expect_sum(self, layer: Layer, bias: str) -> None:
        """Go on in a new graph, with what the members' terms add up to."""
        self._begin()
        pending = self._graph.input("pending", ("B", "T", self._shape.hidden_size))
        name = None
        for parameter in layer.parameters:
            if parameter.name == f"{layer.name}.{bias}":
                name = self._graph.weight(parameter.name, self._source.read(parameter))
        self._residual = Residual(value="hidden", pending=pending, bias=name)


def _find(layer: Layer, suffix: str) -> Parameter:
    return next(p for p in layer.parameters if p.name == f"{layer.name}.{suffix}")
