"""Reads any slice of any tensor of a model, as checked fp32; quantised ones as they are, too.

Does not write parameters: `writer.py` does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from partwise.errors import StoreError
from partwise.store.aligned import aligned_empty
from partwise.store.blocks import copy_block, opened, scratch
from partwise.store.boxes import Box, box_of, size_of
from partwise.store.convert import ELEMENTS, FP32_MAX, STORED_DTYPES
from partwise.store.digests import BLOCK_BYTES, DigestBook
from partwise.store.gather import scatter, wanted_blocks
from partwise.store.location import version_folder
from partwise.store.manifest import Manifest, QuantizedTensor, StoredTensor, adopt, refer_to
from partwise.store.quantized import Quantized, dequantize
from partwise.store.versions import find_version, read_version_config


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
    def open(cls, path: Path, version: int = 0, *, block_bytes: int = BLOCK_BYTES) -> Store:
        """Open a version of a model directory's store; 0, its own files, gets its manifest here.

        Raises:
            ModelError: the directory holds no weights, or damaged ones.
            StoreError: what the store keeps is invalid, or can be written nowhere; there is no
                such version.
        """
        if block_bytes <= 0 or block_bytes % 8:
            raise ValueError(f"block_bytes is {block_bytes}, elements of 8 bytes must fit")
        if version:
            location, manifest = find_version(path, version)
            return cls(path, location, manifest, DigestBook(location, manifest, block_bytes))
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

    @property
    def config(self) -> dict[str, object]:
        """The content of config.json as it is for this version.

        Raises:
            ModelError: there is no valid config.json.
        """
        return read_version_config(self._model, self._manifest)

    def num_bytes(self, name: str) -> int:
        """The stored bytes of a tensor.

        Raises:
            StoreError: there is no such tensor.
        """
        quantized = self._manifest.quantized.get(name)
        if quantized is not None:
            return sum(self.num_bytes(name + suffix) for suffix in quantized.suffixes)
        return self._tensor(name).num_bytes

    def read_quantized(
        self, name: str, start: int = 0, stop: int | None = None
    ) -> Quantized | None:
        """A matrix as it is stored, or its outputs ``start:stop`` alone; None where it is not
        quantised, for `read` then gives it as it is. The arrays are aligned to 64 bytes.

        Raises:
            StoreError, DamagedModel, DigestMismatch: as `read`.
        """
        stored = self._manifest.quantized.get(name)
        if stored is None:
            self._tensor(name)
            return None
        rows = (slice(start, stop),)
        arrays = [self._read_raw(name + suffix, rows) for suffix in stored.suffixes]
        return Quantized(
            packed=arrays[0],
            scales=arrays[1],
            zero_points=arrays[2] if stored.has_zero_points else None,
            bits=stored.bits,
            block=stored.block,
        )

    def digests(self, name: str) -> list[str | None]:
        """The digests of a tensor's blocks, those that nobody has read yet are None.

        Raises:
            StoreError: there is no such tensor.
        """
        self._tensor(name)
        return self._book.known(name)

    def read(self, name: str, slices: tuple[slice, ...] | None = None) -> NDArray[np.float32]:
        """A tensor, or the elements that one slice per axis selects, as a new array.

        The array is C-contiguous, and its base is aligned to 64 bytes. A quantised matrix is
        dequantised, of its outputs just those that are wanted.

        Raises:
            DigestMismatch: a block is not what it was when first read.
            DamagedModel: the shard is missing or truncated.
            StoreError: no such tensor, a slice out of range, a dtype without fp32 values, or
                no permission.
        """
        quantized = self._manifest.quantized.get(name)
        if quantized is not None:
            return self._dequantize(name, quantized, slices)
        return self._read_raw(name, slices, STORED_DTYPES)

    def read_bytes(self, name: str) -> NDArray[np.uint8]:
        """A tensor that is stored as bytes (U8), as `read` reads numbers.

        Raises:
            StoreError, DamagedModel, DigestMismatch: as `read`; or it is not stored as bytes.
        """
        return self._read_raw(name, None, {"U8": ELEMENTS["U8"]})

    def _dequantize(
        self, name: str, stored: QuantizedTensor, slices: tuple[slice, ...] | None
    ) -> NDArray[np.float32]:
        box = box_of(name, stored.shape, slices)
        outputs, inputs = reversed(box) if stored.is_transposed else box
        held = self.read_quantized(name, outputs.start, outputs.stop)
        assert held is not None
        weight_OI = dequantize(held)
        if not stored.is_transposed and len(inputs) == stored.shape[1]:
            return weight_OI
        weight_OI = weight_OI[:, inputs.start : inputs.stop]
        wanted = weight_OI.T if stored.is_transposed else weight_OI
        out = aligned_empty(wanted.shape, np.float32)
        np.copyto(out, wanted)
        return out

    def _read_raw(
        self,
        name: str,
        slices: tuple[slice, ...] | None,
        dtypes: Mapping[str, str] = ELEMENTS,
    ) -> NDArray[Any]:
        """Elements of a tensor of one of ``dtypes``: bytes as bytes, all others as fp32."""
        box = self._box(name, slices, dtypes)
        is_bytes = self._tensor(name).dtype == "U8"
        out = aligned_empty([len(axis) for axis in box], np.uint8 if is_bytes else np.float32)
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

    def _box(self, name: str, slices: tuple[slice, ...] | None, dtypes: Mapping[str, str]) -> Box:
        tensor = self._tensor(name)
        if tensor.dtype not in dtypes:
            how = "bytes" if "F32" not in dtypes else "fp32"
            raise StoreError(
                f"tensor {name!r} is stored as {tensor.dtype}: only "
                f"{', '.join(STORED_DTYPES if how == 'fp32' else dtypes)} are read as {how}"
            )
        return box_of(name, tensor.shape, slices)

    def _read(self, name: str, box: Box, out: NDArray[Any]) -> None:
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
