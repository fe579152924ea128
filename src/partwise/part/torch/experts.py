"""Mixtures of experts: each expert a module of its own, and any of them may be elsewhere.

transformers' modules stack the experts of a block in two tensors. Here they stay as files hold
them: read once, without a copy, and only those that a part owns. The router and what is around it
are transformers' own; every member of a stage routes all tokens, with the same bits.

Shapes: N tokens, H hidden, C experts chosen for a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from partwise.part.owned import Ranges


class Expert(nn.Module):
    """A gated MLP whose projections are called ``names``: gate, up, down."""

    def __init__(self, sizes: tuple[int, int], names: Sequence[str], act_fn: nn.Module) -> None:
        super().__init__()
        hidden, intermediate = sizes
        gate, up, down = self._names = tuple(names)
        self.add_module(gate, nn.Linear(hidden, intermediate, bias=False))
        self.add_module(up, nn.Linear(hidden, intermediate, bias=False))
        self.add_module(down, nn.Linear(intermediate, hidden, bias=False))
        self.act_fn = act_fn

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """(N, H) of the tokens that chose it."""
        gate, up, down = (self.get_submodule(name) for name in self._names)
        output: Tensor = down(self.act_fn(gate(hidden_NH)) * up(hidden_NH))
        return output


class Experts(nn.ModuleDict):
    """The experts of one block that a part owns, by their number.

    Called as transformers' own: what the experts that are missing would add is not there.
    """

    def forward(self, hidden_NH: Tensor, chosen_NC: Tensor, weights_NC: Tensor) -> Tensor:
        """The weighted sum (N, H) over those of the experts that each token chose."""
        total_NH = torch.zeros_like(hidden_NH)
        for number in sorted(set(chosen_NC.flatten().tolist())):
            if str(number) in self:
                tokens, places = torch.where(chosen_NC == number)
                output = self[str(number)](hidden_NH[tokens]) * weights_NC[tokens, places, None]
                # Routers weigh in fp32, whatever the hidden state is in.
                total_NH.index_add_(0, tokens, output.to(total_NH.dtype))
        return total_NH


def separate_experts(stacked: Any, names: Sequence[str], ranges: Ranges) -> Experts:
    """In place of the experts that transformers holds ``stacked`` a module for each in ``ranges``,
    without weights, on the device of the context."""
    sizes = stacked.hidden_dim, stacked.intermediate_dim
    numbers = (number for start, stop in ranges for number in range(start, stop))
    return Experts({str(n): Expert(sizes, names, stacked.act_fn) for n in numbers})
