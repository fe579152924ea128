"""Grids whose scales leave the least squared error, found by trying some.

The grid that just spans a block (`fit_grid`) spends its steps on one outlier; a slightly narrower
one clips it and rounds all others less.

Shapes: O outputs, I inputs, B blocks of an output, b numbers of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from partwise.compress.blocks import Grid, fit_grid

FACTORS = (1.14, 1.1, 1.05, 0.95, 0.9, 0.85)
"""Of the spanning scale. Narrower ones were best for no block in a thousand; the wider ones spare
a symmetric grid from clipping its shorter end (docs/decisions/0030)."""


def search_grid(
    weight_OI: NDArray[np.float32],
    *,
    bits: int,
    block: int,
    is_symmetric: bool,
    importance_I: NDArray[np.float32] | None = None,
) -> Grid:
    """The best grid of those tried, block by block. ``importance_I`` weighs the squared errors
    of the inputs (None: all alike).

    Raises:
        CompressionError: as `fit_grid`.
    """
    best = fit_grid(weight_OI, bits=bits, block=block, is_symmetric=is_symmetric)
    weight_OBb = weight_OI.reshape(len(weight_OI), -1, block)
    importance = None if importance_I is None else importance_I.reshape(1, -1, block)
    least = _squared_error(best, weight_OBb, importance)
    for grid in _candidates(best):
        error = _squared_error(grid, weight_OBb, importance)
        is_better = error < least
        least = np.where(is_better, error, least)
        best = _choose(is_better, grid, best)
    return best


def _candidates(spanning: Grid) -> Iterator[Grid]:
    for factor in FACTORS:
        scales = (spanning.scales * np.float32(factor)).astype(np.float32)
        yield replace(spanning, scales=scales)


def _squared_error(
    grid: Grid, weight_OBb: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Of each block."""
    error = grid.values(grid.numbers(weight_OBb))
    error -= weight_OBb
    error *= error
    if importance is not None:
        error *= importance
    total: NDArray[np.float32] = error.sum(axis=-1)
    return total


def _choose(is_first: NDArray[np.bool_], first: Grid, second: Grid) -> Grid:
    """Block by block the one or the other; their zeros are the same."""
    return replace(second, scales=np.where(is_first, first.scales, second.scales))
