"""The largest of any run of numbers in constant time, after n log n preparation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class RangeMax:
    """Answers for ``values``, which are whole. Source: the sparse table of Bender and
    Farach-Colton, "The LCA problem revisited" (2000)."""

    def __init__(self, values: Sequence[int]) -> None:
        self._rows = [np.array(values, dtype=np.int64)]
        width = 1
        while 2 * width <= len(values):
            last = self._rows[-1]
            self._rows.append(np.maximum(last[:-width], last[width:]))
            width *= 2

    def largest(self, start: int, stop: int) -> int:
        """The largest of ``values[start:stop]``, which is not empty."""
        level = (stop - start).bit_length() - 1
        row = self._rows[level]
        return max(int(row[start]), int(row[stop - (1 << level)]))
