"""GPTQ: rounds a matrix input by input, and lets the inputs that follow make up for each error.

What is kept small is the error of the outputs on calibration activations, not of the weights.

Shapes: O outputs, I inputs.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (2023), algorithm 1, without reordering inputs: blocks stay runs of inputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partwise.compress.blocks import Grid, Quantized, check_block, encode, fit_grid

DAMPING = 0.01
"""Added to the diagonal in parts of its mean, so that it can be inverted. Source: the paper."""

CHUNK_INPUTS = 128
"""How many inputs are finished before all that follow are corrected, in one product."""


def quantize_calibrated(
    weight_OI: NDArray[np.float32],
    moments_II: NDArray[np.float64],
    *,
    bits: int,
    block: int,
    is_symmetric: bool,
) -> Quantized:
    """The matrix in blocks, rounded for inputs of second ``moments_II``.

    Raises:
        CompressionError: as `fit_grid`.
    """
    num_inputs = weight_OI.shape[1]
    check_block(num_inputs, block)
    factor_II = _factor(moments_II)
    # Inputs that are always zero say nothing of their weights: rounding is to nearest there.
    left_OI = weight_OI.copy()
    numbers_OI = np.empty_like(left_OI)
    grids: list[Grid] = []
    width = max(block, CHUNK_INPUTS)
    for start in range(0, num_inputs, width):
        stop = min(start + width, num_inputs)
        errors = np.empty((len(left_OI), stop - start), np.float32)
        for first in range(start, stop, block):
            here = slice(first, first + block)
            grids.append(
                fit_grid(left_OI[:, here], bits=bits, block=block, is_symmetric=is_symmetric)
            )
            _round_block(left_OI[:, first:stop], numbers_OI[:, here], grids[-1],
                         factor_II[first:stop, first:stop], errors[:, first - start :])  # fmt: skip
        left_OI[:, stop:] -= errors @ factor_II[start:stop, stop:]
    return encode(numbers_OI, _join(grids))


def _factor(moments_II: NDArray[np.float64]) -> NDArray[np.float32]:
    """The upper Cholesky factor of the inverse of the damped moments."""
    damped = moments_II.copy()
    diagonal = np.diagonal(damped).copy()
    mean = diagonal.mean() or 1.0
    damped[np.diag_indices_from(damped)] = np.where(diagonal > 0, diagonal, mean) + DAMPING * mean
    inverse = np.linalg.inv(damped)
    # numpy's factor is the lower one; the upper one of a matrix is that of it, transposed.
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def _round_block(
    left: NDArray[np.float32],
    numbers: NDArray[np.float32],
    grid: Grid,
    factor: NDArray[np.float32],
    errors: NDArray[np.float32],
) -> None:
    """Round one block, the first columns of ``left`` (its chunk from there on), in place."""
    for i in range(numbers.shape[1]):
        column = left[:, i, None, None]
        chosen = grid.numbers(column)
        numbers[:, i] = chosen[:, 0, 0]
        error = (column - grid.values(chosen))[:, 0, 0] / factor[i, i]
        left[:, i + 1 :] -= error[:, None] * factor[i, i + 1 :]
        errors[:, i] = error


def _join(grids: list[Grid]) -> Grid:
    """The grids of consecutive blocks as one."""
    first = grids[0]
    zeros = [grid.zeros for grid in grids if grid.zeros is not None]
    return Grid(
        scales=np.concatenate([grid.scales for grid in grids], axis=1),
        zeros=np.concatenate(zeros, axis=1) if zeros else None,
        bits=first.bits,
        block=first.block,
    )
