"""Halves of a block whose neurons the members of a stage share.

With its neurons a member computes a part of what a half adds to the hidden state. The members sum
these parts, and each of them adds the bias to the sum: so it is added once. Which modules of a
block that are, its family says (`families.py`).

Shapes: N tokens of the pass, W width of what is summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from partwise.part.exchange import Exchange
from partwise.part.torch.place import to_array


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """The module at ``path`` of a block, with all neurons of ``kind``.

    The module at ``end``, the half itself or one inside it, returns a sum over these neurons, and
    adds its bias if it has one. ``is_pair``: the half returns a pair, the second of it unused.
    """

    kind: str
    path: str
    end: str
    is_pair: bool = False


class Summed(nn.Module):
    """What ``partial`` of all members returns together, and its bias once.

    ``partial`` has its weights; its bias is taken from it.
    """

    def __init__(self, partial: nn.Module, exchange: Exchange) -> None:
        super().__init__()
        self.partial = partial
        self._exchange = exchange
        self._bias: Tensor | None = None
        bias = getattr(partial, "bias", None)
        if isinstance(bias, Tensor):
            self._bias = bias.detach()
            partial.bias = nn.Parameter(torch.zeros_like(self._bias), requires_grad=False)

    def forward(self, *inputs: Any) -> Tensor:
        """As ``partial`` is called; of its shape, (..., W)."""
        partial: Tensor = self.partial(*inputs)
        return _with_bias(sum_members(self._exchange, partial), self._bias)


class AbsentHalf(nn.Module):
    """A half of whose neurons this member owns none; ``bias`` (W), if it has one, is of its end."""

    def __init__(self, exchange: Exchange, bias: Tensor | None, *, is_pair: bool) -> None:
        super().__init__()
        self._exchange = exchange
        self._bias = bias
        self._is_pair = is_pair

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Tensor, None]:
        """As any half is called, with hidden states (..., W)."""
        total = sum_members(self._exchange, torch.zeros_like(hidden_states))
        total = _with_bias(total, self._bias)
        return (total, None) if self._is_pair else total


def sum_members(exchange: Exchange, partial: Tensor) -> Tensor:
    """The sum of every member's ``partial`` (..., W): good until the next exchange. In its format
    and on its device; what travels is float32."""
    partial_NW = partial.reshape(-1, partial.shape[-1])
    total_NW = exchange.sum(np.ascontiguousarray(to_array(partial_NW)))
    total = torch.from_numpy(total_NW).view(partial.shape)
    is_plain = partial.is_cpu and partial.dtype == total.dtype
    return total if is_plain else total.to(partial.device, partial.dtype)


def _with_bias(total: Tensor, bias: Tensor | None) -> Tensor:
    return total if bias is None else total + bias
