"""Greedy picks of a pass, gathered call by call and given back in the order of its rows.

Shapes: R rows that ask, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array

Floats = NDArray[np.float32]


_PICK, _LOGPROB, _LOGITS = map(int, (RowFlag.PICK, RowFlag.LOGPROB, RowFlag.LOGITS))
"""Plain numbers: the arithmetic of flags takes longer than a pick."""


class Asked:
    """Which rows of one pass want a pick of their last token: ``places`` are theirs among all that
    do; and what any of them wants besides."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.places: dict[int, int] = {}
        wanted = 0
        for index, row in enumerate(rows):
            if row.flags & _PICK:
                self.places[index] = len(self.places)
                wanted |= row.flags
        self.wants_log_probabilities = bool(wanted & _LOGPROB)
        self.wants_logits = bool(wanted & _LOGITS)

    def find(self, group: Sequence[int], count: int) -> tuple[list[int], list[int]]:
        """Those of the rows ``group``, of ``count`` tokens each, that want a pick, and for each
        its last token among theirs."""
        asking, last = [], []
        for number, index in enumerate(group):
            if index in self.places:
                asking.append(index)
                last.append(number * count + count - 1)
        return asking, last


class Picks:
    """What the rows of one pass asked for, from the logits of a whole vocabulary."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.asked = Asked(rows)
        count = len(self.asked.places)
        self._ids = [0] * count
        self._log_probabilities = [0.0] * count
        self._logits: list[Floats | None] = [None] * count

    def add(self, indices: Sequence[int], logits_RV: Floats) -> bool:
        """Take the logits of rows that ask; what is kept of them is copied. Whether they are
        finite, as far as they were asked for: NaN and infinity are largest, and so the picks."""
        is_finite = True
        for index, logits_V in zip(indices, logits_RV, strict=True):
            place = self.asked.places[index]
            picked = self._ids[place] = int(logits_V.argmax())
            best = float(logits_V[picked])
            is_finite &= math.isfinite(best)
            if self.asked.wants_log_probabilities:
                # The pick's own logit is the largest: its log-probability is that of zero.
                self._log_probabilities[place] = -math.log(np.exp(logits_V - best).sum())
            if self.asked.wants_logits:
                self._logits[place] = logits_V.copy()
                is_finite &= bool(np.isfinite(logits_V).all())
        return is_finite

    def outputs(self) -> tuple[Array, ...]:
        """See `Runner.run`."""
        outputs: list[Array] = [np.array(self._ids, np.int64)]
        if self.asked.wants_log_probabilities:
            outputs.append(np.array(self._log_probabilities, np.float32))
        if self.asked.wants_logits:
            outputs.append(np.array(self._logits, np.float32))
        return tuple(outputs)
