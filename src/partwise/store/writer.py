"""Writes a new version of a model's parameters: all of it, or after a crash nothing.

The version exists when its manifest does. Shards and digests are written and synced before, to a
folder that its writer has claimed; the manifest follows by an atomic rename, under the lock of
all versions. The token in the folder fences off a writer that was taken for dead: it compares its
claim before it writes, commits or removes anything, and no number is given twice, so that its
successor has another folder. Existing versions are never touched.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.errors import StoreError
from partwise.model.safetensors_file import read_file_header
from partwise.store.digests import BLOCK_BYTES, DigestBook
from partwise.store.durable import locked, replace_file, sync_folder
from partwise.store.location import LAST_NAME, last_number, version_folder
from partwise.store.manifest import (
    MANIFEST_NAME,
    Derivation,
    Manifest,
    QuantizedTensor,
    Shard,
    StoredTensor,
    describe_shard,
    describe_stored,
    encode_manifest,
)
from partwise.store.quantized import Quantized
from partwise.store.reader import Store

CLAIM_NAME = "claim"


class VersionWriter:
    """A version in the making; see `new_version`. One thread at a time."""

    def __init__(self, model: Path, source: Store, folder: Path, token: str) -> None:
        self.version = int(folder.name)
        self._model = model
        self._source = source
        self._folder = folder
        self._token = token
        self._shards: dict[str, Shard] = {s.file: s for s in source.manifest.shards}
        self._tensors: dict[str, StoredTensor] = {}
        self._quantized: dict[str, QuantizedTensor] = {}
        self._digests: dict[str, list[str | None]] = {}

    def keep(self, name: str) -> None:
        """Let the version refer to a parameter's bytes where they are in its source.

        Raises:
            StoreError, DamagedModel: as `Store.read`: they are digested here.
        """
        quantized = self._source.manifest.quantized.get(name)
        self._source.read(name)
        for suffix in quantized.suffixes if quantized else ("",):
            self._tensors[name + suffix] = self._source.manifest.tensors[name + suffix]
            self._digests[name + suffix] = self._source.digests(name + suffix)
        if quantized:
            self._quantized[name] = quantized

    def write(
        self,
        label: str,
        parameters: Mapping[str, NDArray[np.float32] | Quantized],
        transposed: Collection[str] = (),
    ) -> None:
        """Write a shard with ``parameters``; the quantised ones that are ``transposed`` have
        their inputs first where the model uses them.

        Raises:
            StoreError: it cannot be written, or the folder was taken from this writer.
        """
        self._check_claim()
        arrays: dict[str, NDArray[Any]] = {}
        for name, value in parameters.items():
            if isinstance(value, Quantized):
                arrays |= self._unfold(name, value, name in transposed)
            else:
                arrays[name] = value
        path = self._folder / f"{label}.safetensors"
        _write_shard(path, arrays)
        for entry in read_file_header(path).values():
            self._tensors[entry.name] = describe_stored(self._model, entry)
            self._digests[entry.name] = _digest(arrays[entry.name])
        file = self._tensors[next(iter(arrays))].file
        self._shards[file] = describe_shard(self._model, file)

    def _unfold(self, name: str, value: Quantized, is_transposed: bool) -> dict[str, NDArray[Any]]:
        """The tensors of a quantised matrix, which is put on record."""
        stored = QuantizedTensor(
            bits=value.bits,
            block=value.block,
            shape=value.shape[::-1] if is_transposed else value.shape,
            has_zero_points=value.zero_points is not None,
            is_transposed=is_transposed,
        )
        self._quantized[name] = stored
        parts = (value.packed, value.scales, value.zero_points)
        return {
            name + suffix: array
            for suffix, array in zip(stored.suffixes, parts, strict=False)
            if array is not None
        }

    def commit(self, recipe: str, config: Mapping[str, int | float | str | bool]) -> Manifest:
        """Make the version exist. ``config`` are values that differ from its source's.

        Raises:
            StoreError: it cannot be written, or the folder was taken from this writer.
        """
        parent = self._source.manifest
        inherited = parent.derivation.config if parent.derivation else {}
        used = {tensor.file for tensor in self._tensors.values()}
        manifest = Manifest(
            version=self.version,
            shards=tuple(shard for file, shard in self._shards.items() if file in used),
            tensors=self._tensors,
            derivation=Derivation(
                parent=parent.version,
                recipe=recipe,
                config={**inherited, **config},
                quantized=self._quantized,
            ),
        )
        self._check_claim()
        sync_folder(self._folder)
        with locked(self._folder.parent):
            self._check_claim()
            DigestBook(self._folder, manifest, BLOCK_BYTES).write(self._digests)
            replace_file(self._folder / MANIFEST_NAME, encode_manifest(manifest))
        return manifest

    def _check_claim(self) -> None:
        if not _has_claim(self._folder, self._token):
            raise StoreError(
                f"version {self.version} was taken from this writer, which was thought dead:"
                " it does not exist; compress again"
            )


@contextmanager
def new_version(model: Path, source: Store) -> Iterator[VersionWriter]:
    """Claim the next version of ``model``, made from ``source``; leaving without a commit
    removes what was written.

    Raises:
        StoreError: the store cannot be written.
    """
    root = version_folder(model, 0).parent
    with locked(root):
        # On record before anything is removed or made: a number is never given to two.
        number = last_number(model) + 1
        replace_file(root / LAST_NAME, str(number).encode())
        _remove_abandoned(root)
        folder = root / f"{number:08d}"
        token = secrets.token_hex(16)
        lifeline = _claim(folder, token)
    try:
        yield VersionWriter(model, source, folder, token)
    finally:
        if _has_claim(folder, token) and not (folder / MANIFEST_NAME).exists():
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lifeline)


def _has_claim(folder: Path, token: str) -> bool:
    """Whether the folder is still that of the writer with ``token``."""
    try:
        return (folder / CLAIM_NAME).read_text() == token
    except OSError:
        return False


def _claim(folder: Path, token: str) -> int:
    """Make the folder; the descriptor's lock shows that its writer lives."""
    try:
        folder.mkdir()
        lifeline = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(lifeline, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        raise StoreError(
            f"cannot make the version folder {folder}: {exc.strerror}; free space or permit writing"
        ) from exc
    replace_file(folder / CLAIM_NAME, token.encode())
    sync_folder(folder.parent)
    return lifeline


def _remove_abandoned(root: Path) -> None:
    """Remove the folders of writers that died before their commit; the root is locked."""
    for folder in root.iterdir():
        if not folder.name.isdigit() or not int(folder.name) or (folder / MANIFEST_NAME).exists():
            continue
        try:
            lifeline = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            continue  # not ours to remove
        try:
            fcntl.flock(lifeline, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # its writer lives
        finally:
            os.close(lifeline)


def _write_shard(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        with path.open("wb") as file:
            file.write(save(contiguous))
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise StoreError(
            f"cannot write shard {path}: {exc.strerror}; free space or permit writing, nothing of"
            " the version is kept"
        ) from exc


def _digest(array: NDArray[Any]) -> list[str | None]:
    """The digests of an array's blocks, as a reader will compute them from the file."""
    data = np.ascontiguousarray(array).data.cast("B")
    return [
        hashlib.sha256(data[start : start + BLOCK_BYTES]).hexdigest()
        for start in range(0, len(data), BLOCK_BYTES)
    ]
