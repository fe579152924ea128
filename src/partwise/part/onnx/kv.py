"""KV caches of a part's sequences: one slot each in two buffers a block, for all rows of a pass.

A block has as many KV heads as the part owns of it.

GroupQueryAttention reads and writes the caches of a batch as one array, so the sequences of a
pass must lie in slots that follow each other. They mostly do, since sequences that were
decoded together are decoded together again; where not, slots are swapped.

Shapes: S slots, H KV heads, C capacity in tokens, D head size.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MIN_CAPACITY_TOKENS = 128
PADDING_TOKENS = 16
"""Capacities are powers of two and this: heads at distances of powers of two would share the
same sets of a cache."""


class KvPool:
    """Slots of sequences, in blocks of so many ``heads`` each. ``generation`` counts how often the
    buffers were replaced: views of older ones are of no use any more. ``on_replace`` is called
    before, to let go of them: a block is replaced after the other, so that both are never there
    for all.
    """

    def __init__(
        self,
        heads: Sequence[int],
        head_size: int,
        on_replace: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_replace = on_replace
        self._heads = tuple(heads)
        self._head_size = head_size
        self._slots: list[int] = []  # the sequence in each slot
        self._lengths: dict[int, int] = {}  # tokens of each sequence
        self.generation = 0
        self._reset()

    def _reset(self) -> None:
        self._num_slots = self._capacity = 0
        self._blocks: list[Floats] = [
            np.empty((2, 0, heads, 0, self._head_size), np.float32) for heads in self._heads
        ]
        self.generation += 1

    @property
    def capacity(self) -> int:
        """Tokens for which each slot has room."""
        return self._capacity

    def views(self, start: int, stop: int) -> list[tuple[Floats, Floats]]:
        """Keys and values of the slots ``start:stop``, a pair (slots, H, C, D) for each block."""
        return [(pair[0, start:stop], pair[1, start:stop]) for pair in self._blocks]

    def place(self, lengths: dict[int, int]) -> dict[int, int]:
        """Bring sequences into slots that follow each other, with room for so many tokens each.

        Returns the slot of each; they are new where their sequence is.
        """
        if (slots := self._find(lengths)) is not None:
            self._lengths |= lengths
            return slots
        new = [sequence for sequence in lengths if sequence not in self._lengths]
        self._grow(len(self._slots) + len(new), max(lengths.values()))
        for sequence in new:
            self._slots.append(sequence)
            self._lengths[sequence] = 0
        start = self._gather(set(lengths))
        self._lengths |= lengths
        return {self._slots[slot]: slot for slot in range(start, start + len(lengths))}

    def release(self, sequences: Sequence[int]) -> None:
        """Forget ``sequences``; the last slot moves to where one was."""
        for sequence in sequences:
            if self._lengths.pop(sequence, None) is None:
                continue
            slot, last = self._slots.index(sequence), len(self._slots) - 1
            if slot != last:
                self._move(last, slot)
            self._slots[slot] = self._slots[last]
            self._slots.pop()
        if not self._slots and self._num_slots:
            self._on_replace()
            self._reset()

    def _find(self, lengths: dict[int, int]) -> dict[int, int] | None:
        """The slots of sequences that are where they have to be, as is nearly always so."""
        if max(lengths.values()) > self._capacity or not lengths.keys() <= self._lengths.keys():
            return None
        slots = dict(zip(lengths, map(self._slots.index, lengths), strict=True))
        is_gathered = max(slots.values()) - min(slots.values()) < len(slots)
        return slots if is_gathered else None

    def _grow(self, num_slots: int, length: int) -> None:
        """Make room, in classes of sizes, block by block: all at once would be twice the cache."""
        capacity = max(self._capacity, _class_of(length))
        slots = max(self._num_slots, 1 << (num_slots - 1).bit_length())
        if (slots, capacity) == (self._num_slots, self._capacity):
            return
        self._on_replace()
        for block, old in enumerate(self._blocks):
            pair = _map_empty((2, slots, self._heads[block], capacity, self._head_size))
            for slot, sequence in enumerate(self._slots):
                length = self._lengths[sequence]
                pair[:, slot, :, :length] = old[:, slot, :, :length]
            self._blocks[block] = pair
        self._num_slots, self._capacity = slots, capacity
        self.generation += 1

    def _gather(self, wanted: set[int]) -> int:
        """Swap slots until those of ``wanted`` follow each other; the first of them."""
        is_wanted = [sequence in wanted for sequence in self._slots]
        starts = range(len(self._slots) - len(wanted) + 1)
        start = max(starts, key=lambda at: sum(is_wanted[at : at + len(wanted)]))
        stop = start + len(wanted)
        strangers = [slot for slot in range(start, stop) if not is_wanted[slot]]
        outside = [
            slot for slot, is_in in enumerate(is_wanted) if is_in and not start <= slot < stop
        ]
        for stranger, slot in zip(strangers, outside, strict=True):
            self._swap(stranger, slot)
        return start

    def _swap(self, one: int, other: int) -> None:
        length = max(self._lengths[self._slots[one]], self._lengths[self._slots[other]])
        for pair in self._blocks:
            kept = pair[:, one, :, :length].copy()
            pair[:, one, :, :length] = pair[:, other, :, :length]
            pair[:, other, :, :length] = kept
        self._slots[one], self._slots[other] = self._slots[other], self._slots[one]

    def _move(self, source: int, target: int) -> None:
        length = self._lengths[self._slots[source]]
        for pair in self._blocks:
            pair[:, target, :, :length] = pair[:, source, :, :length]


def _class_of(length: int) -> int:
    """The capacity that ``length`` tokens are given."""
    wanted = max(MIN_CAPACITY_TOKENS, length - PADDING_TOKENS)
    return (1 << (wanted - 1).bit_length()) + PADDING_TOKENS


def _map_empty(shape: tuple[int, ...]) -> Floats:
    """An array whose memory is taken page by page as it is written, and given back when it goes
    (docs/decisions/0012)."""
    memory = mmap.mmap(-1, 4 * math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.float32).reshape(shape)
