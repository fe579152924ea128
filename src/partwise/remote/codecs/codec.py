"""What a link codec is: a way to pack the rows of float32 tensors into fewer bytes and back.

Another codec is one more file with a subclass, and its line in `table.py`. Rows are packed
in blocks that stay in the second level of cache, never one by one.

Shapes: N rows (tokens) of width W, B rows of a block.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from partwise.errors import CodecError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK_BYTES = 256 << 10
"""Of float32 that are packed at once: half of an L2 of 512 KiB. Blocks of 32 KiB take twice as
long, for the calls into numpy."""
FLOAT32 = np.dtype("<f4")


class Packed(msgspec.Struct, frozen=True, gc=False):
    """A float32 tensor of ``shape`` as the codec of that name packed it."""

    codec: str
    shape: tuple[int, ...]
    data: Bytes

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Of what it unpacks to."""
        return FLOAT32

    @property
    def nbytes(self) -> int:
        """Bytes that it takes packed."""
        return self.data.nbytes


class Codec(ABC):
    """Packs and unpacks rows. It holds scratch memory: one thread at a time uses it."""

    NAME: ClassVar[str]
    """In plans and frames: at most 8 ASCII characters."""

    def __init__(self) -> None:
        self._scratch = np.empty(0, np.float32)

    @staticmethod
    @abstractmethod
    def packed_bytes(num_rows: int, width: int) -> int:
        """What ``num_rows`` of ``width`` take."""

    def pack(self, values: Floats, packed: Bytes) -> None:
        """Fill ``packed`` (exactly as long as needed) with the rows of ``values``: contiguous,
        the last axis is a row.

        Raises:
            CodecError: NaN, infinity, or a number beyond what the codec can say.
        """
        if values.size:
            self._pack_rows(_as_rows(values), packed)

    def unpack(self, packed: Bytes, values: Floats) -> None:
        """Fill ``values``, contiguous, with what was packed from a tensor of its shape."""
        if values.size:
            self._unpack_rows(packed, _as_rows(values))

    @abstractmethod
    def _pack_rows(self, values_NW: Floats, packed: Bytes) -> None: ...

    @abstractmethod
    def _unpack_rows(self, packed: Bytes, values_NW: Floats) -> None: ...

    def _blocks(self, values_NW: Floats) -> Iterator[tuple[slice, Floats, Floats]]:
        """The rows in blocks: where each is, its values, and scratch of the same shape."""
        num_rows, width = values_NW.shape
        block = max(1, BLOCK_BYTES // (4 * width))
        if self._scratch.size < min(block, num_rows) * width:
            self._scratch = np.empty(min(block, num_rows) * width, np.float32)
        for start in range(0, num_rows, block):
            values_BW = values_NW[start : start + block]
            scratch = self._scratch[: values_BW.size].reshape(values_BW.shape)
            yield slice(start, start + len(values_BW)), values_BW, scratch

    def _find_peaks(self, values_BW: Floats, scratch_BW: Floats, limit: float) -> Floats:
        """The largest magnitude of each row.

        Raises:
            CodecError: one is NaN, infinity, or above ``limit``.
        """
        np.abs(values_BW, out=scratch_BW)
        peaks_B: Floats = scratch_BW.max(1)
        largest = float(peaks_B.max())  # NaN if any is
        if largest <= limit:
            return peaks_B
        if math.isfinite(largest):
            raise CodecError(
                f"a value of {largest:.4g} is beyond {self.NAME}, which ends at {limit:.5g}: give"
                " this link another codec, bf16, int8 or fp32"
            )
        raise CodecError(f"NaN or infinity cannot travel as {self.NAME}")


def _as_rows(values: Floats) -> Floats:
    return values.reshape(-1, values.shape[-1])
