"""What the members of a stage send each other to sum or to gather: pure, in rounds.

Each function is a generator. It yields a `Round`, what goes to every member and what must come, and
is sent what came; it returns the outcome. All members run the same one at the same time. Two
members give each other all they have; more sum by reduce-scatter and all-gather: each adds up one
piece for all of them, so that all hold the same bits.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from partwise.part.exchange import Floats
from partwise.remote.layout import Array


class Round(NamedTuple):
    """``outgoing``: what goes to each member, in the order of the plan; the entry of the one that
    sends says of which dtype and rank all that comes is. It comes in ``shapes``, or in any where
    there are none."""

    outgoing: Sequence[Array]
    shapes: Sequence[tuple[int, ...]] | None = None


Swap = Generator[Round, Sequence[Array], Sequence[Array]]
"""Is sent what came from each member; in its own place what it sent there."""


def cut(size: int, num_members: int) -> list[tuple[int, int]]:
    """The piece of ``size`` elements that each member adds up: half-open, one after the other, as
    even as can be."""
    bounds = [size * i // num_members for i in range(num_members + 1)]
    return list(pairwise(bounds))


def add_up(partial: Floats, total: Floats, num_members: int, index: int) -> Swap:
    """``total`` becomes the sum of every member's ``partial``, of its shape, added in the order of
    the plan, and is what is returned. Both are contiguous; they may be the same."""
    if num_members == 2:
        # a + b and b + a are the same bits.
        given = yield Round((partial, partial), (partial.shape,) * 2)
        np.add(partial, given[1 - index], out=total)
        return (total,)
    pieces = [partial.reshape(-1)[start:stop] for start, stop in cut(partial.size, num_members)]
    sums = [total.reshape(-1)[start:stop] for start, stop in cut(partial.size, num_members)]
    own = sums[index]
    given = yield Round(pieces, (own.shape,) * num_members)
    np.add(given[0], given[1], out=own)
    for piece in given[2:]:
        np.add(own, piece, out=own)
    given = yield Round((own,) * num_members, [piece.shape for piece in pieces])
    for member, piece in enumerate(given):
        if member != index:
            sums[member][:] = piece
    return (total,)


def give_all(own: Array, num_members: int) -> Swap:
    """Every member's ``own``, in the order of the plan."""
    return (yield Round((own,) * num_members))
