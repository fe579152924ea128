"""Reads any slice of any tensor of a model, as checked fp32.

Does not write parameters: committing a new version is another component.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from partwise.errors import StoreError
from partwise.store.aligned import aligned_empty
from partwise.store.blocks import copy_block, opened, scratch
from partwise.store.boxes import Box, box_of, size_of
from partwise.store.convert import FP32_MAX, STORED_DTYPES
from partwise.store.digests import BLOCK_BYTES, DigestBook
from partwise.store.gather import scatter, wanted_blocks
from partwise.store.location import version_folder
from partwise.store.manifest import Manifest, StoredTensor, adopt, refer_to


class Store:
    """The parameters of a model. One thread at a time; any number of processes.

    A read touches the blocks (16 MiB of the tensor's bytes) that hold an element of it, each
    whole, because a digest covers a whole block. So a contiguous slice reads at most one
    block too much at each end, and a slice of a late axis may read the whole tensor.
    """

    def __init__(self, model: Path, location: Path, manifest: Manifest, book: DigestBook) -> None:
        self._model = model
        self._location = location
        self._manifest = manifest
        self._book = book

    @classmethod
    def open(cls, path: Path, *, block_bytes: int = BLOCK_BYTES) -> Store:
        """Open a model directory as version 0 of its store; writes its manifest if needed.

        Raises:
            ModelError: the directory holds no weights, or damaged ones.
            StoreError: what the store keeps is invalid, or can be written nowhere.
        """
        if block_bytes <= 0 or block_bytes % 8:
            raise ValueError(f"block_bytes is {block_bytes}, elements of 8 bytes must fit")
        manifest = refer_to(path)
        location = version_folder(path, 0)
        adopt(manifest, location)
        return cls(path, location, manifest, DigestBook(location, manifest, block_bytes))

    @property
    def manifest(self) -> Manifest:
        """What the store holds, and where."""
        return self._manifest

    @property
    def location(self) -> Path:
        """The folder of the manifest and the digests: beside the model if possible.

        Where the model's directory cannot be written it is in the user's cache.
        """
        return self._location

    def num_bytes(self, name: str) -> int:
        """The stored bytes of a tensor.

        Raises:
            StoreError: there is no such tensor.
        """
        return self._tensor(name).num_bytes

    def read(self, name: str, slices: tuple[slice, ...] | None = None) -> NDArray[np.float32]:
        """A tensor, or the elements that one slice per axis selects, as a new array.

        The array is C-contiguous, and its base is aligned to 64 bytes.

        Raises:
            DigestMismatch: a block is not what it was when first read.
            DamagedModel: the shard is missing or truncated.
            StoreError: no such tensor, a slice out of range, a dtype without fp32 values, or
                no permission.
        """
        box = self._box(name, slices)
        out = aligned_empty([len(axis) for axis in box], np.float32)
        self._read(name, box, out)
        return out

    def flush(self) -> None:
        """Save the digests recorded so far.

        Raises:
            StoreError: as `DigestBook.flush`.
        """
        self._book.flush()

    def close(self) -> None:
        """As `flush`; the store holds nothing else open."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _tensor(self, name: str) -> StoredTensor:
        tensor = self._manifest.tensors.get(name)
        if tensor is None:
            close = difflib.get_close_matches(name, self._manifest.tensors, n=1, cutoff=0)
            hint = f"the closest is {close[0]!r}" if close else "it holds none"
            raise StoreError(
                f"no tensor {name!r} among the {len(self._manifest.tensors)} of {self._model}: "
                f"{hint}"
            )
        return tensor

    def _box(self, name: str, slices: tuple[slice, ...] | None) -> Box:
        tensor = self._tensor(name)
        if tensor.dtype not in STORED_DTYPES:
            raise StoreError(
                f"tensor {name!r} is stored as {tensor.dtype}: only "
                f"{', '.join(STORED_DTYPES)} are read as fp32"
            )
        return box_of(name, tensor.shape, slices)

    def _read(self, name: str, box: Box, out: NDArray[np.float32]) -> None:
        if not size_of(box):
            return
        tensor = self._tensor(name)
        path = self._model / tensor.file
        block_bytes = self._book.block_bytes
        memory = scratch(min(block_bytes, tensor.num_bytes))
        with opened(path) as descriptor:
            for block, pieces in wanted_blocks(tensor, box, block_bytes):
                start = block * block_bytes
                raw = memory[: min(block_bytes, tensor.num_bytes - start)]
                digest = copy_block(path, descriptor, tensor.offset + start, raw)
                self._book.check(name, block, digest)
                try:
                    scatter(raw, pieces, tensor.dtype, box, out)
                except FloatingPointError as exc:
                    raise _too_large(name, block, tensor) from exc


def _too_large(name: str, block: int, tensor: StoredTensor) -> StoreError:
    return StoreError(
        f"block {block} of tensor {name!r}, stored as {tensor.dtype}, holds a value beyond the "
        f"largest fp32 ({FP32_MAX:g}): clip or scale the model's weights"
    )
