"""What is alive between operators, worked out and measured with torch."""

from __future__ import annotations

from pathlib import Path

import torch

from partwise.distributor.buffers import read_block
from partwise.distributor.load import measure_layer
from partwise.distributor.operators import (
    BlockSizes,
    Operation,
    fused_peak_bytes,
    held_bytes,
    peak_bytes,
    unfused_peak_bytes,
)
from partwise.part.torch.buffers import PeakBytes, measure_block
from partwise.store import Store, open_version

SIZES = BlockSizes(hidden=64, heads=4, kv_heads=2, head_size=16, mlp=160, tokens=128)


def test_a_tensor_lives_until_its_last_use() -> None:
    chain = [
        Operation(output="a", elements=10, inputs=("x",)),
        Operation(output="b", elements=20, inputs=("a",), scratch=3),
        Operation(output="c", elements=1, inputs=("b", "x")),
    ]
    # x + a + b and the scratch of b.
    assert peak_bytes(chain, {"x": 5}) == 4 * (5 + 10 + 20 + 3)


def test_the_mlp_dominates_short_passes_and_the_scores_long_ones() -> None:
    tokens = SIZES.tokens
    mlp = 4 * tokens * (3 * SIZES.mlp + SIZES.hidden)
    assert unfused_peak_bytes(SIZES) >= mlp
    long = BlockSizes(hidden=64, heads=4, kv_heads=2, head_size=16, mlp=160, tokens=2048)
    assert unfused_peak_bytes(long) > 2 * 4 * 4 * 2048 * 2048
    assert fused_peak_bytes(long) < 0.1 * unfused_peak_bytes(long)


def test_a_buffer_is_held_until_a_tensor_of_its_size_took_it_over() -> None:
    chain = [
        Operation(output="a", elements=10, inputs=("x",)),
        Operation(output="b", elements=20, inputs=("a",), scratch=3),
        Operation(output="c", elements=10, inputs=("b",)),  # where a was
    ]
    assert held_bytes(chain, {"x": 5}) == 4 * (5 + 10 + 20 + 3)
    # Were c of another size, the buffer of a would have gone by then.
    chain[-1] = Operation(output="c", elements=11, inputs=("b",))
    chain[1] = Operation(output="b", elements=20, inputs=("a",))
    assert held_bytes(chain, {"x": 5}) == 4 * (5 + 20 + 11)
    assert peak_bytes(chain, {"x": 5}) == 4 * (20 + 11)


def test_storages_are_counted_once_and_while_they_live() -> None:
    given = torch.ones(1000)
    with PeakBytes() as peak:
        doubled = given * 2
        doubled.view(10, 100).t()
        del doubled
        tripled = given * 3
    assert peak.peak == tripled.nbytes


def test_fusion_saves_what_attention_in_single_steps_takes(tiny_llama: Path) -> None:
    model = open_version(tiny_llama, 0)
    config = Store.open(tiny_llama).config
    sizes = read_block(model.layers[1], measure_layer(model.layers[1]), 64, (256, 0))
    assert sizes == BlockSizes(hidden=64, heads=4, kv_heads=2, head_size=16, mlp=160, tokens=256)
    fused, single = measure_block(model, config, 256)
    # Python's frames hold some tensors longer than the graph needs them.
    assert fused_peak_bytes(sizes) <= fused <= 2 * fused_peak_bytes(sizes)
    assert unfused_peak_bytes(sizes) <= 1.2 * single
    assert fused < 0.6 * single
