"""The embedding: rows of a mapped file, of which only those that are looked up are in memory.

Shapes: N tokens, W width, O own rows of the vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partwise.part.exchange import Exchange
from partwise.part.owned import Ranges

Floats = NDArray[np.float32]


class Table:
    """The token table of a model, fp32 (vocabulary, width)."""

    def __init__(self, path: Path, width: int) -> None:
        self._rows = np.asarray(np.memmap(path, np.float32, "r")).reshape(-1, width)

    def look_up(self, ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings of tokens, (N, width)."""
        return self._rows[ids_N]


class SharedTable:
    """A table of which the members of a stage have rows each: the file in ``path`` holds those in
    ``ranges``, (O, W), one after the other."""

    def __init__(self, path: Path, width: int, ranges: Ranges, exchange: Exchange) -> None:
        self._width = width
        self._rows = Table(path, width) if ranges else None
        self._starts = np.array([start for start, _ in ranges], np.int64)
        self._stops = np.array([stop for _, stop in ranges], np.int64)
        sizes = self._stops - self._starts
        self._before = np.cumsum(sizes) - sizes  # own rows before each range
        self._exchange = exchange

    def look_up(self, ids_N: NDArray[np.int64]) -> Floats:
        """The embeddings of tokens, (N, W), a new array. Blocks and raises as `Exchange` does."""
        partial_NW = np.zeros((len(ids_N), self._width), np.float32)
        if self._rows is not None:
            at = np.searchsorted(self._stops, ids_N, side="right")
            is_own = at < len(self._stops)
            is_own[is_own] = ids_N[is_own] >= self._starts[at[is_own]]
            at = at[is_own]
            own = ids_N[is_own] - self._starts[at] + self._before[at]
            partial_NW[is_own] = self._rows.look_up(own)
        return self._exchange.sum(partial_NW).copy()
