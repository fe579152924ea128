"""Linear layers that are fast for the few rows of a decoding pass.

For few rows MKL's ``x @ W.T`` reads weights at 5 to 16 GB/s a core where ``(W @ x.T).T`` reads
them at 11 to 25, and at 1 to 3 rows it uses one core whatever the thread count. Which is faster
depends on the rows and on the inputs' width. Where inputs are narrow an odd row is multiplied
twice, since two columns take no longer than one, and four less than three (measured;
docs/decisions/0008).

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

NARROW_WIDTH = 1536
NARROW_ROWS, WIDE_ROWS = (1, 4), (2, 3)
"""First and last number of rows for which the other order is faster: up to NARROW_WIDTH inputs,
and beyond."""


class FewRowsLinear(nn.Linear):
    """`torch.nn.Linear` with the order of operands that is faster for the rows at hand."""

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **options)
        self._is_narrow = in_features <= NARROW_WIDTH
        self._first, self._last = NARROW_ROWS if self._is_narrow else WIDE_ROWS

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear gives it
        """``input`` (..., I) → (..., O), of any strides."""
        width = self.in_features
        num_rows = input.numel() // width
        if not self._first <= num_rows <= self._last:
            return linear(input, self.weight, self.bias)
        rows_NI = input.reshape(num_rows, width).contiguous()
        if self._is_narrow and num_rows % 2:
            rows_NI = torch.cat((rows_NI, rows_NI[-1:]))
        out_NO = (self.weight @ rows_NI.t())[:, :num_rows].t()
        if self.bias is not None:
            out_NO = out_NO + self.bias
        return out_NO.reshape(*input.shape[:-1], self.out_features)


def with_few_rows_linear(module: nn.Module) -> nn.Module:
    """``module`` with every `nn.Linear` in it, or itself, replaced; parameters keep their names.

    Call it before weights are loaded: the replacements are new and on ``module``'s device.
    """
    if type(module) is nn.Linear:
        return _replace(module)
    for name, child in module.named_children():
        setattr(module, name, with_few_rows_linear(child))
    return module


def _replace(module: nn.Linear) -> nn.Linear:
    has_bias = module.bias is not None
    device = module.weight.device
    return FewRowsLinear(module.in_features, module.out_features, bias=has_bias, device=device)
