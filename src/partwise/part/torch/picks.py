"""Greedy picks from logits.

Shapes: R rows that ask for a pick, V vocabulary, O own rows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from partwise.part.shared_head import Candidates, SharedHead
from partwise.part.torch.place import to_array
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array


class Asked(NamedTuple):
    """What the rows of a pass ask of the head: of which tokens of the pass a pick (``last``, those
    that end a row), and all that any of these rows wants (``flags``)."""

    last: list[int]
    flags: RowFlag


def find_asked(rows: Sequence[Row]) -> Asked:
    """What ``rows``, in their order, ask for."""
    flags = RowFlag.NONE
    last: list[int] = []
    end = 0
    for row in rows:
        end += row.num_tokens
        if row.flags & RowFlag.PICK:
            last.append(end - 1)
            flags |= RowFlag(row.flags)
    return Asked(last, flags)


def pick(logits_RV: Tensor, flags: RowFlag) -> tuple[Array, ...]:
    """The best of all logits, float32 on any device; see `Runner.run`."""
    ids_R = logits_RV.argmax(-1)
    outputs: list[Array] = [ids_R.cpu().numpy()]
    if flags & RowFlag.LOGPROB:
        chosen = logits_RV.gather(-1, ids_R.unsqueeze(-1)).squeeze(-1)
        outputs.append(to_array(chosen - logits_RV.logsumexp(-1)))
    if flags & RowFlag.LOGITS:
        outputs.append(np.ascontiguousarray(to_array(logits_RV)))
    return tuple(outputs)


def pick_shared(
    head: SharedHead, logits_RO: Tensor, rows: Sequence[Row], flags: RowFlag
) -> tuple[Array, ...]:
    """The best of the logits of all members, float32 on the CPU; see `SharedHead.pick`."""
    offered = Candidates(len(logits_RO))
    if logits_RO.shape[1]:
        best_R = logits_RO.argmax(-1)
        offered.ids_R[:] = head.own_ids[best_R.numpy()]
        if flags & RowFlag.LOGPROB:
            offered.sums_R[:] = logits_RO.logsumexp(-1).numpy()
        chosen_R = logits_RO.gather(-1, best_R.unsqueeze(-1)).squeeze(-1).numpy()
        offered.best_R[:] = chosen_R if is_finite(logits_RO) else np.nan
    return head.pick(offered, logits_RO.numpy(), rows, flags)


def is_finite(values: Tensor) -> bool:
    """Whether ``values`` hold neither NaN nor infinity."""
    # The sum is finite for almost every finite tensor and costs one pass over it.
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
