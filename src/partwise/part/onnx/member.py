"""What the runner of a member has in the place of what runs whole layers."""

from __future__ import annotations

from pathlib import Path

from partwise.model import LayerKind
from partwise.part.onnx.cache import Record
from partwise.part.onnx.kv import KvPool
from partwise.part.onnx.segmented import SegmentedGraph, open_segments
from partwise.part.onnx.shares import list_rows
from partwise.part.onnx.table import SharedTable
from partwise.part.runner import RunnerOptions


def open_shared_table(options: RunnerOptions, path: Path) -> SharedTable | None:
    """The part's rows of the embedding, in the file ``path``; None where it is not shared."""
    rows = list_rows(options, LayerKind.EMBEDDING)
    if rows is None or options.exchange is None:
        return None
    own = rows[options.exchange.index]
    return SharedTable(path, options.model.hidden_size, own, options.exchange)


def open_member_graph(
    options: RunnerOptions,
    folder: Path,
    record: Record,
    kv: KvPool | None,
    num_logits: int | None,
) -> SegmentedGraph:
    """The segments that ``record`` names in ``folder``; see `SegmentedGraph`."""
    assert options.exchange is not None
    sessions = []
    if record.graph is not None:
        path = folder / record.graph.name
        sessions = open_segments(path, record.segments, options.threads or 1)
    width = options.model.hidden_size
    return SegmentedGraph(sessions, kv, options.exchange, width, num_logits)
