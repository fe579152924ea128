"""Greedy picks of a pass, gathered call by call and given back in the order of its rows.

Shapes: R rows that ask, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array

Floats = NDArray[np.float32]


class Picks:
    """What the rows of one pass ask of their last token."""

    def __init__(self, rows: Sequence[Row]) -> None:
        asking = [index for index, row in enumerate(rows) if row.flags & RowFlag.PICK]
        self._places = {index: place for place, index in enumerate(asking)}
        self._wanted = RowFlag.NONE
        for index in asking:
            self._wanted |= RowFlag(rows[index].flags)
        self._ids = np.empty(len(asking), np.int64)
        self._log_probabilities = np.empty(len(asking), np.float32)
        self._logits: dict[int, Floats] = {}

    def asks(self, index: int) -> bool:
        """Whether the row ``index`` of the pass wants a pick."""
        return index in self._places

    def add(self, indices: Sequence[int], logits_RV: Floats) -> None:
        """Take the logits of rows that ask; what is kept of them is copied."""
        places = [self._places[index] for index in indices]
        ids_R = logits_RV.argmax(-1)
        self._ids[places] = ids_R
        if self._wanted & RowFlag.LOGPROB:
            best_R1 = logits_RV.max(-1, keepdims=True)
            # The pick's own logit is the largest: its log-probability is that of zero.
            self._log_probabilities[places] = -np.log(np.exp(logits_RV - best_R1).sum(-1))
        if self._wanted & RowFlag.LOGITS:
            self._logits |= zip(places, logits_RV.copy(), strict=True)

    def outputs(self) -> tuple[Array, ...]:
        """See `Runner.run`."""
        outputs: list[Array] = [self._ids]
        if self._wanted & RowFlag.LOGPROB:
            outputs.append(self._log_probabilities)
        if self._wanted & RowFlag.LOGITS:
            outputs.append(np.stack([self._logits[place] for place in range(len(self._ids))]))
        return tuple(outputs)
