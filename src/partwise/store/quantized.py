"""A matrix of small whole numbers with a scale for each block of inputs, as it is stored.

The layout is that of ONNX Runtime's MatMulNBits (com.microsoft), so that a runner may hand the
arrays over as they are. How numbers are chosen is not decided here; see `partwise.compress`.

Shapes: O outputs, I inputs, B = I / block blocks of an output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.errors import StoreError
from partwise.store.aligned import aligned_empty

MIN_BLOCK = 16
"""MatMulNBits takes powers of two from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """``weight[o, i] = (number[o, i] - zero[o, b]) * scale[o, b]``, b the block of input i.

    ``packed`` uint8 (O, B, block * bits / 8), of two 4-bit numbers the first in the low half.
    ``scales`` float32 (O, B). ``zero_points``: uint8 (O, ceil(B * bits / 8)), packed like the
    numbers; or float32 (O, B), for grids on which zero does not lie; or None, where each zero is
    ``2 ** (bits - 1)``.

    Raises:
        StoreError: shapes or types that contradict each other.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[Any] | None
    bits: int
    block: int

    def __post_init__(self) -> None:
        outputs, blocks = self.scales.shape
        expected = (outputs, blocks, self.block * self.bits // 8)
        if self.bits not in (4, 8) or self.packed.shape != expected:
            raise StoreError(
                f"quantised numbers of {self.bits} bits in blocks of {self.block} have shape"
                f" {self.packed.shape}, their scales {self.scales.shape}: expected 4 or 8 bits and"
                f" {expected}"
            )
        zeros = self.zero_points
        if zeros is None:
            return
        width = blocks if zeros.dtype == np.float32 else zero_bytes(blocks, self.bits)
        if zeros.dtype not in (np.uint8, np.float32) or zeros.shape != (outputs, width):
            raise StoreError(
                f"zero points are {zeros.dtype} {zeros.shape}: expected float32"
                f" {(outputs, blocks)} or uint8 {(outputs, zero_bytes(blocks, self.bits))}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I)."""
        outputs, blocks = self.scales.shape
        return outputs, blocks * self.block

    @property
    def num_bytes(self) -> int:
        """Of all arrays."""
        zeros = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.packed.nbytes + self.scales.nbytes + zeros

    def rows(self, start: int, stop: int) -> Quantized:
        """Outputs ``start:stop`` alone, without a copy."""
        return Quantized(
            packed=self.packed[start:stop],
            scales=self.scales[start:stop],
            zero_points=None if self.zero_points is None else self.zero_points[start:stop],
            bits=self.bits,
            block=self.block,
        )


def zero_bytes(num_blocks: int, bits: int) -> int:
    """Bytes of the packed zero points of one output."""
    return -(-num_blocks * bits // 8)


def pack(numbers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Numbers below ``2 ** bits`` packed along the last axis; an odd last one is followed by 0."""
    if bits == 8:
        return numbers
    if numbers.shape[-1] % 2:
        numbers = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, 1)])
    high: NDArray[np.uint8] = numbers[..., 1::2] << np.uint8(4)
    return numbers[..., ::2] | high


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The first ``count`` numbers along the last axis of what `pack` packed."""
    if bits == 8:
        return packed
    numbers = np.stack((packed & 15, packed >> 4), axis=-1)
    return numbers.reshape(*packed.shape[:-1], -1)[..., :count]


def zeros_of(quantized: Quantized) -> NDArray[np.float32] | float:
    """The zero of each block (O, B), or the one of all."""
    zeros = quantized.zero_points
    if zeros is None:
        return float(1 << (quantized.bits - 1))
    if zeros.dtype == np.float32:
        return zeros
    return unpack(zeros, quantized.bits, quantized.scales.shape[1]).astype(np.float32)


def dequantize(quantized: Quantized) -> NDArray[np.float32]:
    """The matrix (O, I) as fp32, a new array, its base aligned to 64 bytes."""
    out_OI = aligned_empty(quantized.shape, np.float32)
    out_OBb = out_OI.reshape(*quantized.scales.shape, quantized.block)
    zeros = zeros_of(quantized)
    numbers = unpack(quantized.packed, quantized.bits, quantized.block)
    np.subtract(numbers, zeros if isinstance(zeros, float) else zeros[..., None], out=out_OBb)
    out_OBb *= quantized.scales[..., None]
    return out_OI
