"""Attention over the rows of a pass, each with its own past.

transformers' modules call it through their attention interface: linear layers see all
tokens of the pass at once, attention sees one row at a time, so that rows of any lengths
share a pass and no row's result depends on another's.

Shapes: H query heads, K KV heads, G = H / K query heads a KV head, N tokens of the pass,
T tokens of the row, L tokens of its sequence so far, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from partwise.part.torch.kv import KvRow

ATTENTION_NAME = "partwise_rows"


def register_attention() -> None:
    """Make `attend_rows` known to transformers; doing it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, attend_rows)


def attend_rows(
    module: nn.Module,
    query_1HND: Tensor,
    key_1KND: Tensor,
    value_1KND: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    rows: Sequence[KvRow],
    block: int,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of every row over its past and itself; returns (1, N, H, D).

    Source: the attention interface of transformers (``AttentionInterface``), which fixes the
    parameters.
    """
    query_HND, key_KND, value_KND = query_1HND[0], key_1KND[0], value_1KND[0]
    if len(rows) == 1:
        out_HND = _attend_row(query_HND, key_KND, value_KND, rows[0], block, scaling)
        return out_HND.transpose(0, 1).unsqueeze(0), None
    outputs = []
    for row in rows:
        new = slice(row.start, row.stop)
        out_HTD = _attend_row(
            query_HND[:, new], key_KND[:, new], value_KND[:, new], row, block, scaling
        )
        outputs.append(out_HTD)
    return torch.cat(outputs, dim=1).transpose(0, 1).unsqueeze(0), None


def _attend_row(
    query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, row: KvRow, block: int, scaling: float
) -> Tensor:
    """Attention of one row, (H, T, D)."""
    keys_KLD, values_KLD = row.append(block, key_KTD, value_KTD)
    num_heads, num_tokens, head_size = query_HTD.shape
    num_kv_heads = keys_KLD.shape[0]
    if num_tokens == 1:
        # One token sees everything: the G query heads of a KV head become G queries of it,
        # which needs neither a mask nor copies of the keys.
        query_KGD = query_HTD.reshape(1, num_kv_heads, -1, head_size)
        out = scaled_dot_product_attention(
            query_KGD, keys_KLD.unsqueeze(0), values_KLD.unsqueeze(0), scale=scaling
        )
        return out.reshape(num_heads, 1, head_size)
    mask_TL = row.causal_mask
    return scaled_dot_product_attention(
        query_HTD.unsqueeze(0),
        keys_KLD.unsqueeze(0),
        values_KLD.unsqueeze(0),
        attn_mask=mask_TL,
        is_causal=mask_TL is None,
        scale=scaling,
        enable_gqa=num_heads != num_kv_heads,
    )[0]
