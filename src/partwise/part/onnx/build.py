"""Builds what a part's graph consists of as files of a folder, with their digests.

Nothing is in force before the caller says so; what was written of a failed build is removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from partwise.errors import StoreError
from partwise.model import Layer, LayerKind
from partwise.part.onnx.cache import BUILDER_VERSION, CachedFile, Record, SourceFile, digest_model
from partwise.part.onnx.graph import GraphWriter, HashedFile
from partwise.part.onnx.layers import Source, write_graph
from partwise.part.onnx.rounding import Rounding
from partwise.part.onnx.segments import write_segments
from partwise.part.onnx.shares import count_elements, list_layers, list_owned, list_rows
from partwise.part.onnx.stale import DATA_SUFFIX
from partwise.part.owned import Ranges
from partwise.part.runner import RunnerOptions

_TABLE_ROWS = 4096
"""Of the embedding that are in memory at a time."""


@dataclass(slots=True, kw_only=True)
class _Progress:
    """Counts the bytes of parameters that were read."""

    options: RunnerOptions
    total_bytes: int
    done_bytes: int = field(default=0)

    def add(self, num_elements: int) -> None:
        self.done_bytes += 4 * num_elements
        self.options.on_progress(self.done_bytes, self.total_bytes)


def build(
    options: RunnerOptions, rounding: Rounding, folder: Path, sources: tuple[SourceFile, ...]
) -> Record:
    """Write the graph of a part's layers and its embedding's table into ``folder``, of a member of
    several as much as it owns of them.

    Raises:
        StoreError: a file cannot be written, or the model cannot be read.
    """
    layers = list_layers(options)
    shared = zip(layers, list_owned(options), strict=True)
    owned = {p.name: own for layer, own in shared for p in layer.parameters}
    num_elements = sum(count_elements(p, owned[p.name]) for x in layers for p in x.parameters)
    progress = _Progress(options=options, total_bytes=4 * num_elements)
    files = _Files(folder)
    try:
        with _translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
            embedding = next((x for x in layers if x.kind is LayerKind.EMBEDDING), None)
            table = None
            if embedding is not None:
                table = _write_table(files, options, embedding, progress)
            others = [layer for layer in layers if layer is not embedding]
            built = _NOTHING
            if others:
                source = Source(
                    model=options.model, config=options.store.config, layers=others,
                    rounding=rounding, store=options.store, on_read=progress.add,
                    owned={name: own for name, own in owned.items() if own.by_kind},
                )  # fmt: skip
                write = _write_graph if options.exchange is None else _write_segments
                built = write(files, source)
    except BaseException:
        files.remove()
        raise
    return Record(
        builder=BUILDER_VERSION, sources=sources, model=digest_model(options), graph=built.graph,
        weights=built.weights, table=table, segments=built.segments,
    )  # fmt: skip


class _Built(NamedTuple):
    """Files, and the bytes of each segment in ``graph`` if there are several."""

    graph: CachedFile | None
    weights: CachedFile | None
    segments: tuple[int, ...] = ()


_NOTHING = _Built(None, None)


def _write_graph(files: _Files, source: Source) -> _Built:
    with files.new("weights") as (name, file):
        graph = GraphWriter(file, name)
        write_graph(graph, source)
        weights = files.finish(name, file)
    with files.new("graph") as (name, file):
        file.write(graph.encode("partwise"))
        return _Built(files.finish(name, file), weights)


def _write_segments(files: _Files, source: Source) -> _Built:
    with files.new("weights") as (name, file):
        graphs = write_segments(file, name, source)
        weights = files.finish(name, file)
    if not graphs:
        return _Built(None, weights)
    encoded = [graph.encode("partwise") for graph in graphs]
    with files.new("graph") as (name, file):
        file.write(b"".join(encoded))
        return _Built(files.finish(name, file), weights, tuple(map(len, encoded)))


def _write_table(
    files: _Files, options: RunnerOptions, embedding: Layer, progress: _Progress
) -> CachedFile:
    table = embedding.parameters[0]
    num_rows, width = table.shape
    with files.new("table") as (name, file):
        for start, stop in _cut_rows(_find_own_rows(options, num_rows)):
            rows = (slice(start, stop), slice(0, width))
            file.write(options.store.read(table.stored_name, rows).data.cast("B"))
            progress.add((stop - start) * width)
        return files.finish(name, file)


def _find_own_rows(options: RunnerOptions, num_rows: int) -> Ranges:
    """The rows of the embedding that the part owns."""
    shared = list_rows(options, LayerKind.EMBEDDING)
    if shared is None or options.exchange is None:
        return ((0, num_rows),)
    return shared[options.exchange.index]


def _cut_rows(ranges: Ranges) -> Iterator[tuple[int, int]]:
    """The same rows, _TABLE_ROWS or fewer at a time."""
    for first, last in ranges:
        for start in range(first, last, _TABLE_ROWS):
            yield start, min(start + _TABLE_ROWS, last)


class _Files:
    """New files of a folder, under names that nobody else has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []

    @contextlib.contextmanager
    def new(self, role: str) -> Iterator[tuple[str, HashedFile]]:
        name = f"{role}-{secrets.token_hex(6)}{DATA_SUFFIX}"
        path = self._folder / name
        self._paths.append(path)
        with HashedFile(path) as file:
            yield name, file

    def finish(self, name: str, file: HashedFile) -> CachedFile:
        """Sync a file of which all was written."""
        os.fsync(file.fileno())
        return CachedFile(name=name, num_bytes=file.num_bytes, sha256=file.sha256)

    def remove(self) -> None:
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreError(
            f"cannot build a graph in {folder}: {exc.strerror}; free space or permit writing, what"
            " runs on the graphs that are there goes on"
        ) from exc
