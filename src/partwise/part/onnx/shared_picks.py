"""Greedy picks of a pass from logits of which each member of a stage has those of its rows.

The members exchange a candidate for each row that asks, and logits only where a row wants them.

Shapes: R rows that ask, V vocabulary, O own rows of it, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.part.exchange import Exchange
from partwise.part.finite import not_finite
from partwise.part.onnx.picks import Asked
from partwise.part.owned import Ranges
from partwise.remote.frame import Row
from partwise.remote.layout import Array

Floats = NDArray[np.float32]

NO_ID = np.iinfo(np.int64).max
"""What a member without rows offers: it loses against every id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHead:
    """Who has which logits: ``ids`` (O) of each of ``parts``, ascending, in the order of the plan;
    ``where`` are the layers that they hold, for people."""

    exchange: Exchange
    parts: tuple[str, ...]
    ids: tuple[NDArray[np.int64], ...]
    where: str

    @property
    def num_own(self) -> int:
        """This member's own logits."""
        return len(self.ids[self.exchange.index])


def list_ids(ranges: Ranges) -> NDArray[np.int64]:
    """The vocabulary rows in ``ranges``."""
    return np.concatenate([np.empty(0, np.int64), *(np.arange(*pair) for pair in ranges)])


class SharedPicks:
    """In the place of `Picks` where the members share the head."""

    def __init__(self, rows: Sequence[Row], head: SharedHead) -> None:
        self.asked = Asked(rows)
        self._rows = rows
        self._head = head
        count = len(self.asked.places)
        # An id, and two float32: its logit, and the logarithm of the sum of all exponentials.
        self._packed_R2 = np.full((count, 2), NO_ID)
        self._values_R2 = self._packed_R2[:, 1:].view(np.float32)
        self._values_R2[:] = -np.inf
        num_kept = count if self.asked.wants_logits else 0
        self._logits_RO = np.empty((num_kept, head.num_own), np.float32)

    def add(self, indices: Sequence[int], logits_RO: Floats) -> bool:
        """See `Picks.add`. What is not finite is told to all members first: they would wait for one
        that fails by itself."""
        ids = self._head.ids[self._head.exchange.index]
        if not len(ids):
            return True
        for index, logits_O in zip(indices, logits_RO, strict=True):
            place = self.asked.places[index]
            picked = int(logits_O.argmax())
            best = logits_O[picked]
            self._packed_R2[place, 0] = ids[picked]
            if self.asked.wants_log_probabilities and np.isfinite(best):
                self._values_R2[place, 1] = best + np.log(np.exp(logits_O - best).sum())
            if self.asked.wants_logits:
                self._logits_RO[place] = logits_O
                best = best if np.isfinite(logits_O).all() else np.nan
            self._values_R2[place, 0] = best
        return True

    def outputs(self) -> tuple[Array, ...]:
        """See `Runner.run`: the same bits on every member.

        Raises:
            NotFinite: logits of some member are NaN or infinite; names it, on each of them.
        """
        if not self.asked.places:
            return (np.empty(0, np.int64),)
        packed_MR2 = np.stack(self._head.exchange.gather(self._packed_R2))
        ids_MR = packed_MR2[:, :, 0].astype(np.int64)
        values_MR2 = np.ascontiguousarray(packed_MR2[:, :, 1:]).view(np.float32)
        best_MR, sums_MR = values_MR2[:, :, 0], values_MR2[:, :, 1]
        self._check(best_MR)
        best_R = best_MR.max(axis=0)
        outputs: list[Array] = [np.where(best_MR == best_R, ids_MR, NO_ID).min(axis=0)]
        if self.asked.wants_log_probabilities:
            sum_R = np.logaddexp.reduce(sums_MR.astype(np.float64), axis=0)
            outputs.append((best_R - sum_R).astype(np.float32))
        if self.asked.wants_logits:
            outputs.append(self._gather_logits())
        return tuple(outputs)

    def _check(self, best_MR: Floats) -> None:
        head = self._head
        for part, ids, best_R in zip(head.parts, head.ids, best_MR, strict=True):
            if len(ids) and not np.isfinite(best_R).all():
                raise not_finite(part, head.where, self._rows)

    def _gather_logits(self) -> Floats:
        """(R, V), in the order of the vocabulary."""
        ids = self._head.ids
        logits_RV = np.empty((len(self._logits_RO), sum(map(len, ids))), np.float32)
        for own, logits_RO in zip(ids, self._head.exchange.gather(self._logits_RO), strict=True):
            logits_RV[:, own] = logits_RO
        return logits_RV
