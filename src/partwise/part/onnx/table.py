"""The embedding: rows of a mapped file, of which only those that are looked up are in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Table:
    """The token table of a model, fp32 (vocabulary, width)."""

    def __init__(self, path: Path, width: int) -> None:
        self._rows = np.asarray(np.memmap(path, np.float32, "r")).reshape(-1, width)

    def look_up(self, ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """The embeddings of tokens, (N, width)."""
        return self._rows[ids_N]
