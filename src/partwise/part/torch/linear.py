"""Linear layers that are fast for the few rows of a decoding pass.

For 2 and 3 rows MKL's ``x @ W.T`` reads weights at 7 to 14 GB/s a core and on one core only,
whatever the thread count; ``(W @ x.T).T`` reads them at 11 to 25 GB/s and on all cores. At 1
row both are the same product; from 4 rows on the first is the faster one for wide layers
(measured; docs/decisions/0008).

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear

MIN_FEW_ROWS, MAX_FEW_ROWS = 2, 3


class FewRowsLinear(nn.Linear):
    """`torch.nn.Linear` with another order of operands for 2 and 3 rows."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear gives it
        """``input`` (..., I) → (..., O)."""
        num_rows = input.numel() // self.in_features
        if not MIN_FEW_ROWS <= num_rows <= MAX_FEW_ROWS:
            return linear(input, self.weight, self.bias)
        out_ON = self.weight @ input.reshape(num_rows, self.in_features).t()
        out_NO = out_ON.t().contiguous()
        if self.bias is not None:
            out_NO += self.bias
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
