"""Runs the layers of one part with ONNX Runtime: one graph, built for just these layers, or where
several members share their neurons a graph from each exchange to the next.

A pass is one call for all rows of one token, and one for each row of several, since
GroupQueryAttention continues one sequence a call. A call cannot be left before its end:
``between_layers`` is called between the calls of a pass.

Shapes: N tokens of the pass, B rows of a call, T tokens of each, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.errors import PromptError
from partwise.model import LayerKind
from partwise.part.finite import not_finite
from partwise.part.onnx.cache import GraphCache, Record
from partwise.part.onnx.kv import KvPool
from partwise.part.onnx.member import open_member_graph, open_shared_table
from partwise.part.onnx.picks import Picks
from partwise.part.onnx.rounding import Rounding
from partwise.part.onnx.segmented import SegmentedGraph
from partwise.part.onnx.session import Graph, open_session
from partwise.part.onnx.shape import Shape
from partwise.part.onnx.shared_picks import SharedPicks
from partwise.part.onnx.shares import list_groups, list_layers
from partwise.part.onnx.table import SharedTable, Table
from partwise.part.runner import RunnerOptions
from partwise.part.shared_head import find_shared_head
from partwise.remote.frame import Row
from partwise.remote.layout import Array

Floats = NDArray[np.float32]

_NUM_TOKENS = attrgetter("num_tokens")


class OnnxRunner:
    """The layers ``start:stop`` of a model, or a member's neurons of them, on the CPU."""

    def __init__(self, options: RunnerOptions) -> None:
        stage = options.plan.stage_of(options.part)
        model = options.model
        self._part = options.part
        self._where = model.describe_range(stage.start, stage.stop)
        self._context_tokens = model.context_tokens
        self._has_head = list_layers(options)[-1].kind is LayerKind.HEAD
        self._shared_head = find_shared_head(options)
        self._kv = None
        self._graph: Graph | SegmentedGraph | None = None
        self._table: Table | SharedTable | None = None
        if groups := list_groups(options):
            head_size = Shape.read(model, options.store.config).head_size
            self._kv = KvPool(groups, head_size, on_replace=self._let_go)
        self._open(options)

    def _let_go(self) -> None:
        """Of the caches that are about to be replaced."""
        if self._graph is not None:
            self._graph.forget()

    def _open(self, options: RunnerOptions) -> None:
        """Find or build the graph, and open it."""
        precision = options.plan.part(options.part).precision
        cache = GraphCache(options, Rounding(precision=precision))
        record, model = cache.open(), options.model
        if record.table is not None:
            path = cache.folder / record.table.name
            self._table = open_shared_table(options, path) or Table(path, model.hidden_size)
        if options.exchange is not None:
            self._graph = self._open_segments(options, cache.folder, record)
        elif record.graph is not None:
            session = open_session(cache.folder / record.graph.name, options.threads or 1)
            num_logits = model.vocab_size if self._has_head else 0
            self._graph = Graph(session, self._kv, model.hidden_size, num_logits)
        self.weight_bytes = sum(file.num_bytes for file in (record.weights, record.table) if file)
        self.host_bytes = self.weight_bytes
        self.notes = tuple(cache.notes)
        options.on_progress(self.weight_bytes, self.weight_bytes)

    def _open_segments(
        self, options: RunnerOptions, folder: Path, record: Record
    ) -> SegmentedGraph | None:
        if record.weights is None:
            return None
        num_logits = options.model.vocab_size if self._has_head else None
        if self._shared_head is not None:
            num_logits = len(self._shared_head.own_ids)
        return open_member_graph(options, folder, record, self._kv, num_logits)

    def run(
        self,
        rows: Sequence[Row],
        inputs: Sequence[Array],
        between_layers: Callable[[], None],
    ) -> tuple[Array, ...]:
        """See `Runner.run`."""
        given: Any = inputs[0]  # what the cut says; see `Assignment.event`
        hidden_NW: Floats = given if self._table is None else self._table.look_up(given)
        if self._graph is None:
            return (hidden_NW,)
        picks = self._make_picks(rows)
        out_NW = hidden_NW if picks else np.empty_like(hidden_NW)
        starts = [0, *accumulate(map(_NUM_TOKENS, rows))]
        for number, indices in enumerate(_group(rows)):
            if number:
                between_layers()
            slot, group, lengths = self._place(indices, rows)
            tokens = _select(group, starts)
            count = rows[group[0]].num_tokens
            hidden_BTW = hidden_NW[tokens].reshape(len(group), count, -1)
            asking, last = picks.asked.find(group, count) if picks else ((), ())
            result = self._graph.run(hidden_BTW, slot, lengths, last, group)
            if not (picks.add(asking, result) if picks else bool(np.isfinite(result).all())):
                raise not_finite(self._part, self._where, rows)
            if not picks:
                out_NW[tokens] = result.reshape(-1, result.shape[-1])
        return picks.outputs() if picks else (out_NW,)

    def release(self, sequences: Sequence[int]) -> None:
        """See `Runner.release`."""
        if self._kv is not None:
            self._kv.release(sequences)

    def _make_picks(self, rows: Sequence[Row]) -> Picks | SharedPicks | None:
        if self._shared_head is not None:
            return SharedPicks(rows, self._shared_head)
        return Picks(rows) if self._has_head else None

    def _place(self, group: list[int], rows: Sequence[Row]) -> tuple[int, list[int], list[int]]:
        """The first slot of a group, its rows in the order of their slots, and their lengths.

        Raises:
            PromptError: a row goes beyond the model's context.
        """
        lengths = {}
        for row in map(rows.__getitem__, group):
            lengths[row.sequence] = row.position + row.num_tokens
        longest = max(lengths.values())
        if longest > self._context_tokens:
            raise PromptError(
                f"{self._part} was sent {longest} tokens of a sequence, the context"
                f" is {self._context_tokens}: ask for fewer"
            )
        if self._kv is None:
            return 0, group, list(lengths.values())
        slots = self._kv.place(lengths)
        if len(group) == 1:
            return slots[rows[group[0]].sequence], group, [longest]
        ordered = sorted(group, key=lambda index: slots[rows[index].sequence])
        return min(slots.values()), ordered, [lengths[rows[i].sequence] for i in ordered]


def _group(rows: Sequence[Row]) -> list[list[int]]:
    """The indices of the rows that are computed together."""
    if len(rows) == 1:
        return [[0]]
    if len({row.sequence for row in rows}) < len(rows):
        return [[index] for index in range(len(rows))]  # one sequence goes on several times
    single = [index for index, row in enumerate(rows) if row.num_tokens == 1]
    longer = [[index] for index, row in enumerate(rows) if row.num_tokens > 1]
    return [single, *longer] if single else longer


def _select(group: Sequence[int], starts: Sequence[int]) -> slice | list[int]:
    """The tokens of rows that have as many each, among those of the pass: without a copy, where
    they follow each other."""
    first, last = group[0], group[-1]
    if len(group) == 1 or all(one + 1 == other for one, other in pairwise(group)):
        return slice(starts[first], starts[last + 1])
    return [token for i in group for token in range(starts[i], starts[i + 1])]
