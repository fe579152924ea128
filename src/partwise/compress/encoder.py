"""How one matrix is rounded, by the recipe's method; counts which way each went.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from partwise.compress.blocks import Quantized, fit_grid, quantize, round_to
from partwise.compress.gptq import quantize_calibrated
from partwise.compress.grids import find_grid
from partwise.compress.recipe import Recipe
from partwise.compress.scales import search_grid

TABLE_BITS = 8
"""Of the embedding, whatever the matrices have: a token reads one row of it, so that fewer bits
make nothing faster."""


class Encoder:
    """Rounds matrices by one recipe, which has ``bits``."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.bits is not None
        self.ways: Counter[str] = Counter()
        self._recipe = recipe
        self._bits = recipe.bits

    @property
    def shares_table(self) -> bool:
        """Whether a tied head is rounded as the embedding is, so that they stay one tensor."""
        return self._bits == TABLE_BITS and self._recipe.rounding != "gptq"

    def encode(
        self, weight_OI: NDArray[np.float32], moments_II: NDArray[np.float64] | None
    ) -> Quantized:
        """A matrix that activations with these moments are multiplied by."""
        recipe = self._recipe
        if recipe.rounding == "gptq":
            assert moments_II is not None
            self.ways[f"int{self._bits} calibrated"] += 1
            return quantize_calibrated(
                weight_OI, moments_II, bits=self._bits, block=recipe.block,
                is_symmetric=recipe.is_symmetric,
            )  # fmt: skip
        for bits in sorted({self._bits, TABLE_BITS}) if recipe.rounding == "grid" else [self._bits]:
            if found := self._on_grid(weight_OI, bits):
                return found
        # Without a grid of its own a matrix is rounded as these bits are by default.
        chosen = replace(recipe, method=None) if recipe.rounding == "grid" else recipe
        is_searched = chosen.rounding == "search"
        self.ways[f"int{self._bits} {'searched' if is_searched else 'nearest'}"] += 1
        fit = search_grid if is_searched else fit_grid
        grid = fit(weight_OI, bits=self._bits, block=recipe.block, is_symmetric=recipe.is_symmetric)
        return round_to(weight_OI, grid)

    def encode_table(self, table_OI: NDArray[np.float32]) -> Quantized:
        """The embedding."""
        found = self._on_grid(table_OI, TABLE_BITS)
        if found is not None:
            return found
        self.ways[f"int{TABLE_BITS} nearest"] += 1
        return quantize(table_OI, bits=TABLE_BITS, block=self._recipe.block, is_symmetric=True)

    def _on_grid(self, weight_OI: NDArray[np.float32], bits: int) -> Quantized | None:
        """The matrix on the grid that it lies on already, if there is one that runs fast: grids
        whose zeros are no whole numbers are for the method ``grid`` alone."""
        any_zeros = self._recipe.rounding == "grid"
        grid = find_grid(weight_OI, bits=bits, block=self._recipe.block, any_zeros=any_zeros)
        if grid is None:
            return None
        self.ways[f"int{bits} on its own grid"] += 1
        return round_to(weight_OI, grid)
