"""The embedding of members that share its rows, and the head of one that has none.

Shapes: N tokens of the pass, W width, R rows that ask for a pick, O own rows of the vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from partwise.part.exchange import Exchange
from partwise.part.owned import Ranges
from partwise.part.torch.halves import sum_members
from partwise.registry.gathers import list_ids


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
        own_N = torch.from_numpy(self._own_of_id[ids_N.cpu().numpy()]).to(self.weight.device)
        is_own_N = own_N >= 0
        partial_NW = self.weight.new_zeros(len(own_N), self.weight.shape[1])
        partial_NW[is_own_N] = self.weight[own_N[is_own_N]]
        # It becomes the hidden state, which is still needed after the next exchange.
        return sum_members(self._exchange, partial_NW).clone()


class NoRows(nn.Module):
    """The head of a member that owns no rows of it."""

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, W) → (R, 0)."""
        return hidden.new_empty(*hidden.shape[:-1], 0)
