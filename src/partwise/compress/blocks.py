"""Matrices as whole numbers of 4 or 8 bits in blocks: rounding to nearest, and grids.

The layout is `partwise.store.quantized.Quantized`, that of MatMulNBits. numpy alone.

Shapes: O outputs, I inputs, B = I / block blocks of an output, b numbers of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from partwise.errors import CompressionError
from partwise.store.quantized import MIN_BLOCK, Quantized, dequantize, pack

__all__ = [
    "Grid",
    "Quantized",
    "check_block",
    "dequantize",
    "encode",
    "fit_grid",
    "quantize",
    "round_to",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The values that each block may take: ``(number - zero) * scale``, number whole and from 0
    to ``2 ** bits - 1``. ``scales`` and ``zeros`` are float32 (O, B); ``zeros`` of None are
    ``2 ** (bits - 1)`` everywhere, ``has_whole_zeros`` says whether they are numbers of the grid.
    """

    scales: NDArray[np.float32]
    zeros: NDArray[np.float32] | None
    bits: int
    block: int
    has_whole_zeros: bool = True

    @property
    def largest(self) -> int:
        """The largest number."""
        return (1 << self.bits) - 1

    def at(self, block: int) -> Grid:
        """The grid of one block alone."""
        zeros = None if self.zeros is None else self.zeros[:, block : block + 1]
        return replace(self, scales=self.scales[:, block : block + 1], zeros=zeros)

    def numbers(self, values_OBb: NDArray[np.float32]) -> NDArray[np.float32]:
        """The numbers nearest to the values."""
        numbers = np.rint(values_OBb / self.scales[..., None] + self._zeros)
        clipped: NDArray[np.float32] = np.clip(numbers, 0, self.largest)
        return clipped

    def values(self, numbers_OBb: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the numbers stand for."""
        return (numbers_OBb - self._zeros) * self.scales[..., None]

    @property
    def _zeros(self) -> NDArray[np.float32] | np.float32:
        return np.float32(1 << (self.bits - 1)) if self.zeros is None else self.zeros[..., None]


def check_block(num_inputs: int, block: int, name: str = "the matrix") -> None:
    """Refuse blocks that MatMulNBits does not take, or that do not divide the inputs.

    Raises:
        CompressionError: names the blocks that would do.
    """
    if block >= MIN_BLOCK and block & (block - 1) == 0 and num_inputs % block == 0:
        return
    usable = [1 << i for i in range(4, 14) if num_inputs % (1 << i) == 0]
    advice = f"give {', '.join(map(str, usable))}" if usable else "keep this model's precision"
    raise CompressionError(
        f"a block of {block} does not suit the {num_inputs} inputs of {name}: blocks are powers of"
        f" two from {MIN_BLOCK} on that divide the inputs; {advice}"
    )


def fit_grid(weight_OI: NDArray[np.float32], *, bits: int, block: int, is_symmetric: bool) -> Grid:
    """The grid that just spans each block of a matrix.

    Symmetric: the value of the largest magnitude becomes number 0, which reaches one step
    further than the other end does. Asymmetric: from the least to the greatest, zero included.

    Source: onnxruntime/core/mlas/lib/q4_dq.cpp, which onnxruntime's own quantiser calls.

    Raises:
        CompressionError: the block does not divide the inputs, or a value is not finite.
    """
    outputs, inputs = weight_OI.shape
    check_block(inputs, block)
    if not np.isfinite(weight_OI).all():
        raise CompressionError(
            "a weight is NaN or infinite: repair the model before compressing it"
        )
    weight_OBb = weight_OI.reshape(outputs, -1, block)
    low, high = weight_OBb.min(axis=-1), weight_OBb.max(axis=-1)
    if is_symmetric:
        extreme = np.where(np.abs(high) > np.abs(low), high, low)
        scales = _nonzero(extreme / np.float32(-(1 << (bits - 1))))
        return Grid(scales=scales, zeros=None, bits=bits, block=block)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scales = _nonzero((high - low) / np.float32((1 << bits) - 1))
    zeros = np.clip(np.rint(-low / scales), 0, (1 << bits) - 1).astype(np.float32)
    return Grid(scales=scales, zeros=zeros, bits=bits, block=block)


def _nonzero(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blocks of zeros alone, or of values that fp32 cannot divide by, get a scale of one."""
    is_usable = np.abs(scales) >= np.finfo(np.float32).tiny
    return np.where(is_usable, scales, 1).astype(np.float32)


def encode(numbers_OI: NDArray[np.float32], grid: Grid) -> Quantized:
    """The stored form of whole ``numbers_OI`` on ``grid``."""
    outputs, inputs = numbers_OI.shape
    numbers = numbers_OI.astype(np.uint8).reshape(outputs, inputs // grid.block, grid.block)
    zeros = grid.zeros
    if zeros is not None and grid.has_whole_zeros:
        zeros = pack(zeros.astype(np.uint8), grid.bits)  # type: ignore[assignment]
    return Quantized(
        packed=np.ascontiguousarray(pack(numbers, grid.bits)),
        scales=np.ascontiguousarray(grid.scales),
        zero_points=None if zeros is None else np.ascontiguousarray(zeros),
        bits=grid.bits,
        block=grid.block,
    )


def quantize(
    weight_OI: NDArray[np.float32], *, bits: int, block: int, is_symmetric: bool
) -> Quantized:
    """Each weight rounded to the nearest value of its block's grid.

    Raises:
        CompressionError: as `fit_grid`.
    """
    grid = fit_grid(weight_OI, bits=bits, block=block, is_symmetric=is_symmetric)
    return round_to(weight_OI, grid)


def round_to(weight_OI: NDArray[np.float32], grid: Grid) -> Quantized:
    """Each weight rounded to the nearest value of ``grid``."""
    outputs, inputs = weight_OI.shape
    numbers = grid.numbers(weight_OI.reshape(outputs, -1, grid.block))
    return encode(numbers.reshape(outputs, inputs), grid)
