"""Embedding and head whose vocabulary rows the members of a stage share.

Shapes: N tokens of the pass, W width, R rows that ask for a pick, V vocabulary, O own rows of it,
M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from partwise.part.exchange import Exchange
from partwise.part.finite import not_finite
from partwise.part.owned import Ranges
from partwise.part.torch.halves import sum_members
from partwise.part.torch.picks import is_finite
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array

Ids = NDArray[np.int64]
NO_ID = np.iinfo(np.int64).max
"""What a member without rows offers: it loses against every id."""


def list_ids(ranges: Ranges) -> Ids:
    """The neurons in ``ranges``, one after the other."""
    return np.concatenate([np.empty(0, np.int64), *(np.arange(*pair) for pair in ranges)])


class OwnedTable(nn.Module):
    """A token table of which this member owns the rows ``ranges``: what it looks up is the sum over
    the members. ``weight`` (O, W)."""

    def __init__(self, ranges: Ranges, shape: tuple[int, int], exchange: Exchange) -> None:
        super().__init__()
        ids = list_ids(ranges)
        vocab_size, width = shape
        self.weight = nn.Parameter(torch.empty(len(ids), width))
        self._exchange = exchange
        self._own_of_id = np.full(vocab_size, -1)
        self._own_of_id[ids] = np.arange(len(ids))

    def forward(self, ids_N: Tensor) -> Tensor:
        """(N, W)."""
        own_N = torch.from_numpy(self._own_of_id[ids_N.numpy()])
        is_own_N = own_N >= 0
        partial_NW = torch.zeros(len(own_N), self.weight.shape[1])
        partial_NW[is_own_N] = self.weight[own_N[is_own_N]]
        # It becomes the hidden state, which is still needed after the next exchange.
        return sum_members(self._exchange, partial_NW).clone()


class NoRows(nn.Module):
    """The head of a member that owns no rows of it."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, W) → (R, 0)."""
        return hidden.new_empty(*hidden.shape[:-1], 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHead:
    """Picks from logits of which each member has those of its rows.

    ``parts`` are the members in the order of the plan, ``ids`` (O) of each its rows, ascending;
    ``where`` are the layers that they hold, for people.
    """

    exchange: Exchange
    parts: tuple[str, ...]
    ids: tuple[Ids, ...]
    where: str

    def pick(self, logits_RO: Tensor, rows: Sequence[Row], flags: RowFlag) -> tuple[Array, ...]:
        """What `picks.pick` finds in the logits of all members: the same bits on each of them.

        Raises:
            NotFinite: logits of some member are NaN or infinite; names it, on each of them.
        """
        packed_MR2 = np.stack(self.exchange.gather(self._find_best(logits_RO, flags)))
        ids_MR = packed_MR2[:, :, 0].astype(np.int64)
        values_MR2 = np.ascontiguousarray(packed_MR2[:, :, 1:]).view(np.float32)
        best_MR, sums_MR = values_MR2[:, :, 0], values_MR2[:, :, 1]
        for part, own, best_R in zip(self.parts, self.ids, best_MR, strict=True):
            if len(own) and not np.isfinite(best_R).all():
                raise not_finite(part, self.where, rows)
        chosen_R = best_MR.max(axis=0)
        outputs: list[Array] = [np.where(best_MR == chosen_R, ids_MR, NO_ID).min(axis=0)]
        if flags & RowFlag.LOGPROB:
            sum_R = np.logaddexp.reduce(sums_MR.astype(np.float64), axis=0)
            outputs.append((chosen_R - sum_R).astype(np.float32))
        if flags & RowFlag.LOGITS:
            outputs.append(self._gather_logits(logits_RO))
        return tuple(outputs)

    def _find_best(self, logits_RO: Tensor, flags: RowFlag) -> NDArray[np.int64]:
        """(R, 2): the id of the best of its own rows, and two float32: its logit, and the logarithm
        of the sum of all their exponentials if it is asked for."""
        num_rows, num_own = logits_RO.shape
        packed_R2 = np.full((num_rows, 2), NO_ID)
        values_R2 = packed_R2[:, 1:].view(np.float32)
        values_R2[:] = -np.inf
        if not num_own:
            return packed_R2
        best_R = logits_RO.argmax(-1)
        packed_R2[:, 0] = self.ids[self.exchange.index][best_R.numpy()]
        if flags & RowFlag.LOGPROB:
            values_R2[:, 1] = logits_RO.logsumexp(-1).numpy()
        # All members must learn of it: they would wait for one that fails by itself.
        chosen_R = logits_RO.gather(-1, best_R.unsqueeze(-1)).squeeze(-1).numpy()
        values_R2[:, 0] = chosen_R if is_finite(logits_RO) else np.nan
        return packed_R2

    def _gather_logits(self, logits_RO: Tensor) -> Array:
        """(R, V), in the order of the vocabulary."""
        given = self.exchange.gather(np.ascontiguousarray(logits_RO.numpy()))
        logits_RV = np.empty((len(logits_RO), sum(map(len, self.ids))), np.float32)
        for ids, logits in zip(self.ids, given, strict=True):
            logits_RV[:, ids] = logits
        return logits_RV
