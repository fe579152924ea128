"""Built graphs in the store's folder of the model: found again, checked, or built.

One folder for each of (model, layers, what is owned of them, precision, builder); in it files
with unique names and `graph.json`, which names those in force and their digests and is replaced
at once. So a reader sees a whole graph or none, a failed build changes nothing, and files that a
running server has mapped stay until it ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from partwise.errors import StoreError
from partwise.part.onnx.rounding import Rounding
from partwise.part.onnx.shares import list_owned
from partwise.part.onnx.stale import (
    DATA_SUFFIX,
    GRAPHS_NAME,
    RECORD_NAME,
    Origin,
    is_young,
    remove_stale,
)
from partwise.part.runner import RunnerOptions
from partwise.store.durable import locked, remove_file, replace_file
from partwise.store.manifest import fingerprint_of

BUILDER_VERSION = 4
"""Raised whenever the same layers become another graph."""
_PIECE_BYTES = 1 << 20


class CachedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file beside the record."""

    name: str
    num_bytes: int
    sha256: str


class SourceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the model as it was when the graph was built: another time means other weights."""

    file: str
    num_bytes: int
    modified_ns: int


class Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a folder holds. ``graph`` and ``weights`` are of all layers but the embedding, whose
    ``table`` is fp32, C-ordered. ``model`` stands for the config and manifest it is of. Of a member
    of several ``graph`` holds its ``segments``, one after the other: their bytes."""

    builder: int
    sources: tuple[SourceFile, ...]
    model: str = ""
    graph: CachedFile | None
    weights: CachedFile | None
    table: CachedFile | None
    segments: tuple[int, ...] = ()

    @property
    def files(self) -> list[CachedFile]:
        return [file for file in (self.graph, self.weights, self.table) if file is not None]


class GraphCache:
    """The graph of one part, in a folder of the store. ``notes`` say to people what was built
    again, and why, and that graphs of no use were removed."""

    def __init__(self, options: RunnerOptions, rounding: Rounding) -> None:
        self._options = options
        self._rounding = rounding
        self.notes: list[str] = []
        self.folder = options.store.location / GRAPHS_NAME / _key(options, rounding)

    def open(self) -> Record:
        """The record of a graph that is whole, built now if there is none.

        Raises:
            StoreError: it cannot be written, or the model cannot be read.
        """
        before = self._read()
        found = self._check(before, _damage)
        if not isinstance(found, Record):
            if found:
                self.notes.append(f"{self._options.part}'s graph {found}: built again")
            from partwise.part.onnx.build import build

            sources = list_sources(self._options)
            built = build(self._options, self._rounding, self.folder, sources)
            found = self._adopt(built, before)
        self._remove_stale(found)
        return found

    def _remove_stale(self, record: Record) -> None:
        """Remove the graphs that nobody can use beside the one of ``record``."""
        current = Origin(
            builder=BUILDER_VERSION,
            sources=msgspec.Raw(msgspec.json.encode(record.sources)),
            model=digest_model(self._options),
        )
        if freed_bytes := remove_stale(self._options.store.location, current):
            self.notes.append(
                f"graphs of older builders, or of models that are gone, were removed:"
                f" {freed_bytes / 1e6:,.1f} MB"
            )

    def _check(self, record: Record | str, look: Callable[[Path, CachedFile], str]) -> Record | str:
        """``record`` if it is of these weights and ``look`` finds nothing wrong with its files;
        else what is wrong, which is nothing where there is none."""
        if not isinstance(record, Record):
            return record
        if record.sources != list_sources(self._options):
            return "is of weights that have changed"
        damages = (look(self.folder / file.name, file) for file in record.files)
        return next(filter(None, damages), record)

    def _read(self) -> Record | str:
        try:
            return msgspec.json.decode((self.folder / RECORD_NAME).read_bytes(), type=Record)
        except FileNotFoundError:
            return ""
        except (OSError, msgspec.DecodeError) as exc:
            return f"in {self.folder} cannot be read ({exc})"

    def _adopt(self, built: Record, before: Record | str) -> Record:
        """Put ``built`` in force instead of ``before``, unless somebody else was faster; what is
        in force.

        No file is read: others wait for the lock, and not for long. What somebody else has just
        written is not suspect, but ``before`` is, however whole it looks.

        Raises:
            StoreError: a file of ``built`` is gone or cut short, or the record cannot be written.
        """
        with locked(self.folder):
            now = self._read()
            if now != before and isinstance(self._check(now, _misfit), Record):
                assert isinstance(now, Record)  # its files may be open already, ours are not
                self._remove([built], now)
                return now
            damages = (_misfit(self.folder / file.name, file) for file in built.files)
            if wrong := next(filter(None, damages), ""):
                raise StoreError(
                    f"{self._options.part}'s graph was built in {self.folder}, but {wrong} by now:"
                    " see that nobody removes files there, and start again"
                )
            replace_file(self.folder / RECORD_NAME, msgspec.json.encode(built))
            self._remove([now] if isinstance(now, Record) else [], built)
            return built

    def _remove(self, records: Sequence[Record], kept: Record) -> None:
        """Remove the files of ``records``, and what was left behind by builds that were killed."""
        names = {file.name for record in records for file in record.files}
        kept_names = {file.name for file in kept.files}
        for path in self.folder.glob(f"*{DATA_SUFFIX}"):
            if path.name not in kept_names and (path.name in names or not is_young(path)):
                remove_file(path)


def list_sources(options: RunnerOptions) -> tuple[SourceFile, ...]:
    """The model's files as they are now.

    Raises:
        StoreError: one is gone.
    """
    found = []
    for shard in options.store.manifest.shards:
        path = options.model_path / shard.file
        try:
            state = path.stat()
        except OSError as exc:
            raise StoreError(f"cannot look at shard {path}: {exc.strerror}; restore it") from exc
        found.append(
            SourceFile(file=shard.file, num_bytes=state.st_size, modified_ns=state.st_mtime_ns)
        )
    return tuple(found)


def digest_model(options: RunnerOptions) -> str:
    """Stands for what graphs of a model have in common: its config, and where its weights are."""
    described = [options.model.fingerprint, fingerprint_of(options.store.manifest)]
    return hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:12]


def _key(options: RunnerOptions, rounding: Rounding) -> str:
    """The folder's name: the same for whatever becomes the same graph."""
    stage = options.plan.stage_of(options.part)
    described: list[object] = [
        BUILDER_VERSION, options.model.fingerprint, fingerprint_of(options.store.manifest),
        stage.start, stage.stop, rounding.precision, rounding.block, rounding.is_symmetric,
    ]  # fmt: skip
    if options.exchange is not None:
        described.append([sorted(owned.by_kind.items()) for owned in list_owned(options)])
    digest = hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:12]
    return f"{stage.start}-{stage.stop}-{rounding.precision}-{digest}"


def _damage(path: Path, file: CachedFile) -> str:
    """What is wrong with a file; empty if nothing is."""
    hasher = hashlib.sha256()
    try:
        with path.open("rb") as opened:
            while piece := opened.read(_PIECE_BYTES):
                hasher.update(piece)
    except OSError as exc:
        return f"file {path.name} cannot be read ({exc.strerror})"
    return "" if hasher.hexdigest() == file.sha256 else f"file {path.name} has a wrong digest"


def _misfit(path: Path, file: CachedFile) -> str:
    """What is wrong with a file at a glance; empty if nothing is."""
    try:
        num_bytes = path.stat().st_size
    except OSError as exc:
        return f"file {path.name} cannot be read ({exc.strerror})"
    if num_bytes != file.num_bytes:
        return f"file {path.name} has {num_bytes} bytes, not {file.num_bytes}"
    return ""
