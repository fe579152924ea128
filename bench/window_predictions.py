"""Predictions of a graph that is run a whole window at a time.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Run = Callable[[Sequence[int]], NDArray[np.float32]]


class WindowPredictions:
    """See `Predictions`: ``run`` gives the logits (N, V) of all tokens of a window; those of one
    window at a time are kept."""

    def __init__(self, windows: Sequence[Sequence[int]], run: Run) -> None:
        self._windows = windows
        self._run = run
        self._at: int | None = None
        self._logits: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def logits(self, window: int, start: int, stop: int) -> NDArray[np.float32]:
        """See `Predictions.logits`."""
        if window != self._at:
            self._logits, self._at = self._run(self._windows[window]), window
        return self._logits[start:stop].copy()
