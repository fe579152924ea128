"""Which blocks of a tensor hold a box of it, and the way from a block into the result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.store.boxes import Box, flat_span, overlap, size_of, split_flat, within
from partwise.store.convert import ELEMENTS, convert_into
from partwise.store.manifest import StoredTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A box that is contiguous in a block, from its element ``start``; ``wanted`` of it is read."""

    start: int
    held: Box
    wanted: Box


def wanted_blocks(
    tensor: StoredTensor, box: Box, block_bytes: int
) -> Iterator[tuple[int, list[Piece]]]:
    """The numbers of the blocks that hold elements of ``box`` (not empty), with these elements."""
    num_elements = math.prod(tensor.shape)
    per_block = block_bytes // (tensor.num_bytes // num_elements)
    span = flat_span(tensor.shape, box)
    for block in range(span.start // per_block, -(-span.stop // per_block)):
        first = block * per_block
        pieces = []
        start = 0
        for held in split_flat(tensor.shape, first, min(first + per_block, num_elements)):
            wanted = overlap(held, box)
            if size_of(wanted):
                pieces.append(Piece(start=start, held=held, wanted=wanted))
            start += size_of(held)
        if pieces:
            yield block, pieces


def scatter(raw: memoryview, pieces: list[Piece], dtype: str, box: Box, out: NDArray[Any]) -> None:
    """Write what is wanted of a block's bytes to its place in ``out``, which holds ``box``.

    Raises:
        FloatingPointError: as `convert_into`.
    """
    elements = np.frombuffer(raw, dtype=ELEMENTS[dtype])
    for piece in pieces:
        flat = elements[piece.start : piece.start + size_of(piece.held)]
        held = flat.reshape([len(axis) for axis in piece.held])
        source = held[within(piece.wanted, piece.held)]
        target = out[within(piece.wanted, box)]
        convert_into(target, source, dtype)
