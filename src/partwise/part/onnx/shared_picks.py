"""Greedy picks of a pass from logits of which each member of a stage has those of its rows.

Shapes: R rows that ask, O own rows of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partwise.part.onnx.picks import Asked
from partwise.part.owned import Floats
from partwise.part.shared_head import Candidates, SharedHead
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array


class SharedPicks:
    """In the place of `Picks` where the members share the head."""

    def __init__(self, rows: Sequence[Row], head: SharedHead) -> None:
        self.asked = Asked(rows)
        self._rows = rows
        self._head = head
        count = len(self.asked.places)
        self._offered = Candidates(count)
        num_kept = count if self.asked.wants_logits else 0
        self._logits_RO = np.empty((num_kept, len(head.own_ids)), np.float32)

    def add(self, indices: Sequence[int], logits_RO: Floats) -> bool:
        """See `Picks.add`. What is not finite is told to all members first: they would wait for one
        that fails by itself."""
        ids, offered = self._head.own_ids, self._offered
        if not len(ids):
            return True
        for index, logits_O in zip(indices, logits_RO, strict=True):
            place = self.asked.places[index]
            picked = int(logits_O.argmax())
            best = logits_O[picked]
            offered.ids_R[place] = ids[picked]
            if self.asked.wants_log_probabilities and np.isfinite(best):
                offered.sums_R[place] = best + np.log(np.exp(logits_O - best).sum())
            if self.asked.wants_logits:
                self._logits_RO[place] = logits_O
                best = best if np.isfinite(logits_O).all() else np.nan
            offered.best_R[place] = best
        return True

    def outputs(self) -> tuple[Array, ...]:
        """See `SharedHead.pick`."""
        if not self.asked.places:
            return (np.empty(0, np.int64),)
        flags = RowFlag.PICK
        flags |= RowFlag.LOGPROB if self.asked.wants_log_probabilities else RowFlag.NONE
        flags |= RowFlag.LOGITS if self.asked.wants_logits else RowFlag.NONE
        return self._head.pick(self._offered, self._logits_RO, self._rows, flags)
