"""Finds the grid on which a matrix already lies, so that encoding it again loses nothing.

A model that was dequantised (from GGUF's Q4_0, Q4_1, Q8_0, ...) holds values of a grid in each
block; rounding to another grid would lose accuracy a second time.

Shapes: O outputs, I inputs, B blocks of an output, b numbers of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partwise.compress.blocks import Grid, check_block, fit_grid

TOLERANCE = 2.0**-21
"""Of a block's largest magnitude: what computing ``d * q + m`` in fp32 leaves, and its undoing."""


def find_grid(
    weight_OI: NDArray[np.float32], *, bits: int, block: int, any_zeros: bool = True
) -> Grid | None:
    """A grid of ``bits`` that holds every value up to fp32 rounding; None where there is none.

    Looked for: the symmetric grids of Q4_0 and Q8_0, whole numbers times a scale, and where
    ``any_zeros`` may do, for 4 bits that of Q4_1: any least value and up to 15 equal steps, so
    with zeros that are no whole numbers.

    Raises:
        CompressionError: the block does not divide the inputs, or a value is not finite.
    """
    check_block(weight_OI.shape[1], block)
    symmetric = fit_grid(weight_OI, bits=bits, block=block, is_symmetric=True)
    centred = _spanned(weight_OI, bits, block)
    for grid in (symmetric, centred):
        if _worst(weight_OI, grid) <= TOLERANCE:
            return grid
    return _find_steps(weight_OI, block) if bits == 4 and any_zeros else None


def _spanned(weight_OI: NDArray[np.float32], bits: int, block: int) -> Grid:
    """The grid whose outermost numbers, both as far from zero, reach the largest magnitude.

    Source: Q8_0 in ggml-quants.c of llama.cpp, ``d = amax / 127``.
    """
    largest = np.abs(weight_OI.reshape(weight_OI.shape[0], -1, block)).max(axis=-1)
    scales = np.where(largest > 0, largest / np.float32((1 << (bits - 1)) - 1), 1)
    return Grid(scales=scales.astype(np.float32), zeros=None, bits=bits, block=block)


def _worst(weight_OI: NDArray[np.float32], grid: Grid) -> float:
    """The largest error of rounding to ``grid``, in parts of its block's largest magnitude."""
    weight_OBb = weight_OI.reshape(weight_OI.shape[0], -1, grid.block)
    error = np.abs(grid.values(grid.numbers(weight_OBb)) - weight_OBb).max(axis=-1)
    largest = np.abs(weight_OBb).max(axis=-1)
    return float((error / np.where(largest > 0, largest, 1)).max())


def _find_steps(weight_OI: NDArray[np.float32], block: int) -> Grid | None:
    weight_OBb = weight_OI.reshape(weight_OI.shape[0], -1, block)
    low = weight_OBb.min(axis=-1)
    above_OBb = weight_OBb - low[..., None]
    span = above_OBb.max(axis=-1)
    limit = TOLERANCE * np.maximum(np.abs(weight_OBb).max(axis=-1), span)
    scales = np.ones_like(low)
    is_open = span > 0
    # 15 first: a block that was fitted from its least to its greatest value has that many.
    for steps in range(15, 0, -1):
        if not is_open.any():
            break
        rows = np.nonzero(is_open)
        step = _as_stored(span[rows] / np.float32(steps))
        above = above_OBb[rows]
        error = np.abs(np.rint(above / step[:, None]) * step[:, None] - above).max(axis=-1)
        is_found = error <= limit[rows]
        found = tuple(axis[is_found] for axis in rows)
        scales[found] = step[is_found]
        is_open[found] = False
    if is_open.any():
        return None
    zeros = -low / scales
    return Grid(scales=scales, zeros=zeros, bits=4, block=block, has_whole_zeros=False)


def _as_stored(step: NDArray[np.float32]) -> NDArray[np.float32]:
    """The fp16 number that GGUF stores where ``step`` is one up to fp32 rounding."""
    with np.errstate(over="ignore"):
        half = step.astype(np.float16).astype(np.float32)
    return np.where(np.abs(half - step) <= TOLERANCE * step, half, step)
