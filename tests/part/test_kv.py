"""KV caches: what was stored is there after every growth, and memory is taken as it is filled."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.part.memory import resident_bytes
from partwise.part.torch.kv import MIN_CAPACITY_TOKENS, ContiguousKv

NUM_BLOCKS, NUM_HEADS, HEAD_SIZE = 3, 2, 4


def draw(tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = NUM_HEADS, tokens, HEAD_SIZE
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 200)), min_size=1, max_size=8))
def test_all_tokens_so_far_come_back_in_every_block(steps: list[tuple[int, int]]) -> None:
    kv = ContiguousKv([NUM_HEADS] * NUM_BLOCKS, HEAD_SIZE)
    expected: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
    length = {0: 0, 1: 0}
    for number, (sequence, tokens) in enumerate(steps):
        row = kv.row(sequence, length[sequence], 0, tokens)
        length[sequence] += tokens
        for block in range(NUM_BLOCKS):
            new = draw(tokens, 100 * number + block)
            stored = expected.setdefault((sequence, block), [])
            stored.append(new)
            keys, values = row.append(block, *new)
            assert torch.equal(keys, torch.cat([pair[0] for pair in stored], dim=1))
            assert torch.equal(values, torch.cat([pair[1] for pair in stored], dim=1))


def test_a_released_sequence_begins_anew() -> None:
    kv = ContiguousKv([NUM_HEADS] * NUM_BLOCKS, HEAD_SIZE)
    kv.row(7, 0, 0, 5).append(0, *draw(5, 1))
    kv.release([7, 8])
    keys, _ = kv.row(7, 0, 0, 2).append(0, *draw(2, 2))
    assert torch.equal(keys, draw(2, 2)[0])


def test_a_cache_takes_the_memory_of_its_tokens_not_of_its_capacity() -> None:
    blocks, heads, head_size = 16, 4, 64
    token_bytes = 2 * blocks * heads * head_size * 4
    kv = ContiguousKv([heads] * blocks, head_size)
    num_tokens = 8 * MIN_CAPACITY_TOKENS + 16  # just beyond a power of two
    new = torch.ones(heads, num_tokens, head_size)
    before = resident_bytes()
    row = kv.row(0, 0, 0, num_tokens)
    for block in range(blocks):
        row.append(block, new, new)
    held = resident_bytes() - before
    assert 0.9 * num_tokens * token_bytes < held < 1.2 * num_tokens * token_bytes
    kv.release([0])
    del row
    assert resident_bytes() - before < 0.1 * num_tokens * token_bytes


def test_blocks_may_have_other_numbers_of_heads() -> None:
    kv = ContiguousKv([3, 0, 1], HEAD_SIZE)
    for tokens in (5, MIN_CAPACITY_TOKENS):  # the second time it grows
        row = kv.row(0, 0, 0, tokens)
        for block, heads in ((0, 3), (2, 1)):
            new = torch.randn(heads, tokens, HEAD_SIZE)
            keys, values = row.append(block, new, 2 * new)
            assert torch.equal(keys, new)
            assert torch.equal(values, 2 * new)
