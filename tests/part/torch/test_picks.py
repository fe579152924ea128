"""Picks from logits that lie on several members are those from all logits in one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.errors import NotFinite
from partwise.part.shared_head import SharedHead
from partwise.part.torch.picks import pick, pick_shared
from partwise.registry.gathers import list_ids
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array
from support.exchange import join_threads, run_members
from support.plans import find_ranges

ALL = RowFlag.PICK | RowFlag.LOGPROB | RowFlag.LOGITS
ASKING = [Row(0, 0, 1, ALL)]


def pick_together(
    logits_RV: torch.Tensor, owner_of: Sequence[int], num_members: int, flags: RowFlag = ALL
) -> list[tuple[Array, ...]]:
    """What each member picks from the logits of the rows that it owns."""
    ids = tuple(list_ids(find_ranges(owner_of, member)) for member in range(num_members))
    parts = tuple(f"part{member}" for member in range(num_members))
    exchanges = join_threads(num_members)

    def run(member: int) -> tuple[Array, ...]:
        head = SharedHead(exchange=exchanges[member], parts=parts, ids=ids, where="head")
        return pick_shared(head, logits_RV[:, ids[member]], ASKING, flags)

    return run_members(run, num_members)


owners = st.integers(1, 4).flatmap(
    lambda count: st.tuples(
        st.just(count), st.lists(st.integers(0, count - 1), min_size=1, max_size=24)
    )
)


@settings(max_examples=300, deadline=None)
@given(owners=owners, num_rows=st.integers(1, 3), seed=st.integers(0, 1 << 32))
def test_members_pick_what_is_picked_from_all_logits(
    owners: tuple[int, list[int]], num_rows: int, seed: int
) -> None:
    num_members, owner_of = owners
    # Few values: most rows have several best, of which the first is picked.
    values = np.random.default_rng(seed).integers(-2, 3, (num_rows, len(owner_of)))
    logits_RV = torch.from_numpy(values.astype(np.float32))
    expected = pick(logits_RV, ALL)
    for ids, logprobs, logits in pick_together(logits_RV, owner_of, num_members):
        assert ids.tolist() == expected[0].tolist()
        assert ids.dtype == np.int64
        np.testing.assert_allclose(logprobs, expected[1], atol=1e-6)
        assert logprobs.dtype == np.float32
        assert logits.tobytes() == expected[2].tobytes()


@pytest.mark.parametrize("num_outputs", [1, 2])
def test_only_what_is_asked_for_is_given(num_outputs: int) -> None:
    flags = RowFlag.PICK | (RowFlag.LOGPROB if num_outputs == 2 else RowFlag.NONE)
    logits_RV = torch.tensor([[1.0, 4.0, 2.0]])
    for outputs in pick_together(logits_RV, [0, 1, 0], 2, flags):
        assert outputs[0].tolist() == [1]
        assert len(outputs) == num_outputs


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_every_member_says_whose_logits_are_not_finite(value: float) -> None:
    logits_RV = torch.tensor([[1.0, 4.0, 2.0, 9.0]])
    logits_RV[0, 2] = value
    ids = (np.array([0, 1]), np.array([2, 3]))
    exchanges = join_threads(2)

    def run(member: int) -> str:
        exchange = exchanges[member]
        head = SharedHead(exchange=exchange, parts=("left", "right"), ids=ids, where="head")
        with pytest.raises(NotFinite) as error:
            pick_shared(head, logits_RV[:, ids[member]], ASKING, ALL)
        return str(error.value)

    for message in run_members(run, 2):
        assert message.startswith("right (head) computed NaN or infinity for sequence 0")
