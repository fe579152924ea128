"""Slots of sequences: what is in them stays with its sequence, wherever it is moved."""

from __future__ import annotations

import weakref

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.part.onnx.kv import KvPool


def write(pool: KvPool, lengths: dict[int, int]) -> None:
    """Append to each sequence what tells its tokens from all others."""
    before = {sequence: pool._lengths.get(sequence, 0) for sequence in lengths}
    slots = pool.place(lengths)
    start = min(slots.values())
    assert sorted(slots.values()) == list(range(start, start + len(slots)))
    views = pool.views(start, start + len(slots))
    for sequence, slot in slots.items():
        for block, (keys, values) in enumerate(views):
            for position in range(before[sequence], lengths[sequence]):
                mark = sequence * 10_000 + position * 10 + block
                keys[slot - start, :, position] = mark
                values[slot - start, :, position] = -mark


def check(pool: KvPool) -> None:
    for slot, sequence in enumerate(pool._slots):
        for block, (keys, values) in enumerate(pool.views(slot, slot + 1)):
            length = pool._lengths[sequence]
            marks = sequence * 10_000 + np.arange(length) * 10 + block
            assert (keys[0, :, :length] == marks[:, None]).all()
            assert (values[0, :, :length] == -marks[:, None]).all()


STEP = st.tuples(st.sets(st.integers(0, 7), min_size=1), st.integers(1, 60), st.booleans())


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=12))
def test_tokens_stay_with_their_sequence(steps: list[tuple[set[int], int, bool]]) -> None:
    pool = KvPool([2, 3], head_size=4)
    for sequences, count, is_release in steps:
        if is_release:
            pool.release(list(sequences))
        else:
            write(pool, {s: pool._lengths.get(s, 0) + count for s in sequences})
        check(pool)


def test_the_same_batch_stays_where_it_is() -> None:
    pool = KvPool([1], head_size=4)
    write(pool, dict.fromkeys(range(6), 1))
    write(pool, {1: 2, 4: 2})
    generation, slots = pool.generation, list(pool._slots)
    for length in range(3, 9):
        write(pool, {1: length, 4: length})
    assert (pool.generation, pool._slots) == (generation, slots)


def test_an_empty_pool_holds_no_memory() -> None:
    pool = KvPool([1], head_size=4)
    write(pool, {1: 500})
    assert pool.capacity >= 500
    pool.release([1, 2])
    assert pool.capacity == 0


def test_views_are_let_go_of_before_buffers_are_replaced() -> None:
    kept: list[object] = []
    pool = KvPool([1, 1, 1], head_size=4, on_replace=kept.clear)
    write(pool, {1: 5})
    old = [weakref.ref(pair.base.base) for pair in pool._blocks]
    assert all(ref() is not None for ref in old)
    kept += pool.views(0, 1)
    write(pool, {1: 500})
    assert not any(ref() is not None for ref in old), "two caches at once"
    kept += pool.views(0, 1)
    new = [weakref.ref(pair.base.base) for pair in pool._blocks]
    pool.release([1])
    assert not any(ref() is not None for ref in new), "a cache without sequences"
