"""Buffers of a part's passes: by hand, and what must hold for all of them."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.distributor import balance_layers
from partwise.distributor.buffers import measure_buffers
from partwise.distributor.operators import BlockSizes, held_bytes, list_fused, list_unfused
from partwise.distributor.operators import fused_peak_bytes as fused
from partwise.distributor.operators import unfused_peak_bytes as unfused
from partwise.model import Model

SIZES = st.builds(
    lambda heads, groups, head_size, mlp, tokens, past_tokens, is_gated: BlockSizes(
        hidden=heads * groups * head_size, heads=heads * groups, kv_heads=groups,
        head_size=head_size, mlp=mlp * heads * groups * head_size, tokens=tokens,
        past_tokens=past_tokens, is_gated=is_gated,
    ),
    st.integers(1, 8), st.integers(1, 8), st.sampled_from([16, 64, 128]), st.integers(2, 6),
    st.integers(1, 512), st.integers(0, 4096), st.booleans(),
)  # fmt: skip


@given(SIZES)
def test_fusion_never_takes_more_and_more_tokens_never_less(sizes: BlockSizes) -> None:
    # Of few tokens in all, attention's own copies may be more than single steps take.
    if sizes.tokens + sizes.past_tokens >= 1024:
        assert fused(sizes) <= unfused(sizes)
    more = replace(sizes, tokens=sizes.tokens + 1)
    assert fused(sizes) < fused(more)
    assert unfused(sizes) < unfused(more)
    given = {"input": sizes.rows}
    assert fused(sizes) <= held_bytes(list_fused(sizes), given)
    assert unfused(sizes) <= held_bytes(list_unfused(sizes), given)


@given(SIZES)
def test_three_blocks_hold_what_any_number_of_them_do(sizes: BlockSizes) -> None:
    given = {"input": sizes.rows}
    for lister in (list_fused, list_unfused):
        three, eight = (held_bytes(lister(sizes, count), given) for count in (3, 8))
        assert three == eight


def test_a_pass_by_hand(model: Model) -> None:
    """The model of conftest: hidden 16, 8 query and 4 KV heads of 2, 12 gated MLP units, 30
    words; 10 tokens after none."""
    plan = balance_layers(model, ["a"], runner="onnx")
    found = measure_buffers(plan, model, "part0", tokens=10)
    qkv = 10 * (16 + 8 + 8)
    tile = 10 * (10 + 2 + 2)
    # While the second block attends: received, the copy, four hidden states (residual, its
    # sum, the norm, attended), qkv, and as much twice inside attention; the MLP's three are held.
    assert found.fused_bytes == 4 * (2 * 160 + 4 * 160 + qkv + 2 * qkv + tile + 3 * 120)
    assert found.single_steps_bytes > found.fused_bytes
    assert found.saving == pytest.approx(1 - found.fused_bytes / found.single_steps_bytes)


def test_logits_of_one_token_and_hidden_states_of_all_leave_a_part(model: Model) -> None:
    plan = balance_layers(model, ["a", "b", "c"], runner="onnx")
    for part in plan.parts:
        one, ten = (measure_buffers(plan, model, part.name, tokens=n) for n in (1, 10))
        assert 0 < one.fused_bytes < ten.fused_bytes


def test_torch_gives_each_buffer_back(model: Model) -> None:
    plan = balance_layers(model, ["a"], runner="onnx")
    parts = tuple(msgspec.structs.replace(part, runner="torch") for part in plan.parts)
    torch = msgspec.structs.replace(plan, parts=parts)
    held, alive = (measure_buffers(p, model, "part0", tokens=64) for p in (plan, torch))
    assert alive.fused_bytes < held.fused_bytes
