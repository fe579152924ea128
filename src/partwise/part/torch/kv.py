"""KV caches of sequences, block by block.

Shapes: H KV heads, C capacity, T new tokens, L tokens so far and new, D head size.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from partwise.part.torch.place import PLAIN, Place

MIN_CAPACITY_TOKENS = 128


class KvRow(Protocol):
    """The cache of one row of a pass: the tokens ``start:stop`` of the pass belong to it."""

    start: int
    stop: int

    @property
    def causal_mask(self) -> Tensor | None:
        """What each new token may see: all before it and itself. None where that is all of
        the row, or plain causal attention: one new token, or no past."""
        ...

    def append(self, block: int, key_HTD: Tensor, value_HTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of one block; all of them so far, (H, L, D) each."""
        ...


class KvCache(Protocol):
    """The caches of all sequences of a part. A paged one has the same methods."""

    def row(self, sequence: int, position: int, start: int, stop: int) -> KvRow:
        """The row of a pass whose tokens ``start:stop`` continue ``sequence`` at ``position``."""
        ...

    def release(self, sequences: Sequence[int]) -> None:
        """Free what ``sequences`` hold."""
        ...


class _Contiguous:
    """Keys and values of one sequence, one (H, C, D) pair a block."""

    __slots__ = ("blocks", "capacity", "place")

    def __init__(self, num_heads: Sequence[int], head_size: int, place: Place) -> None:
        self.capacity = 0
        self.place = place
        empty = [place.empty(count, 0, head_size) for count in num_heads]
        self.blocks = [(none, none) for none in empty]

    def grow(self, length: int, capacity: int) -> None:
        """Make room for ``capacity`` tokens, of which ``length`` are there.

        Block by block: the old and the new buffers of all blocks would be twice the cache.
        """
        self.capacity = capacity
        for block, (keys, values) in enumerate(self.blocks):
            num_heads, _, head_size = keys.shape
            if not num_heads:
                continue
            pair = _map_empty((2, num_heads, capacity, head_size), self.place)
            pair[0, :, :length] = keys[:, :length]
            pair[1, :, :length] = values[:, :length]
            self.blocks[block] = (pair[0], pair[1])


def _map_empty(shape: tuple[int, ...], place: Place) -> Tensor:
    """A tensor whose memory is taken page by page as it is written, and given back when it goes;
    on another device than the CPU all of it at once.

    The allocator would hand out what others have written to: then all of the capacity counts.
    """
    if place.device.type != "cpu":
        return place.empty(*shape)
    num_bytes = place.dtype.itemsize * math.prod(shape)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=place.dtype).view(shape)


class ContiguousRow:
    """One row over contiguous storage."""

    __slots__ = ("_blocks", "_position", "_total", "causal_mask", "start", "stop")

    def __init__(self, held: _Contiguous, position: int, start: int, stop: int) -> None:
        self._blocks = held.blocks
        self._position = position
        self._total = position + stop - start
        self.start = start
        self.stop = stop
        self.causal_mask = _causal_mask(stop - start, self._total, held.place.device)

    def append(self, block: int, key_HTD: Tensor, value_HTD: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._blocks[block]
        count = self.stop - self.start
        keys.narrow(1, self._position, count).copy_(key_HTD)
        values.narrow(1, self._position, count).copy_(value_HTD)
        return keys.narrow(1, 0, self._total), values.narrow(1, 0, self._total)


def _causal_mask(num_tokens: int, total: int, device: torch.device) -> Tensor | None:
    if num_tokens in (1, total):
        return None
    every = torch.ones(num_tokens, total, dtype=torch.bool, device=device)
    return every.tril(total - num_tokens)


class ContiguousKv:
    """One contiguous buffer a sequence; its capacity doubles when it is full.

    ``num_heads`` are the KV heads of each block; a block without any is not asked for. Keys and
    values are kept at ``place``.
    """

    def __init__(self, num_heads: Sequence[int], head_size: int, place: Place = PLAIN) -> None:
        self._shape = (tuple(num_heads), head_size, place)
        self._held: dict[int, _Contiguous] = {}

    def row(self, sequence: int, position: int, start: int, stop: int) -> KvRow:
        held = self._held.get(sequence)
        if held is None:
            held = self._held[sequence] = _Contiguous(*self._shape)
        needed = position + stop - start
        if held.capacity < needed:
            capacity = max(MIN_CAPACITY_TOKENS, 1 << (needed - 1).bit_length())
            held.grow(min(position, held.capacity), capacity)
        return ContiguousRow(held, position, start, stop)

    def release(self, sequences: Sequence[int]) -> None:
        for sequence in sequences:
            self._held.pop(sequence, None)
