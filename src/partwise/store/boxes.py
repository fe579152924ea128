"""Boxes: which elements of a C-ordered array a slice wants, and where they lie in it.

A box is a range per axis. Pure index arithmetic: no bytes, no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import EllipsisType

from partwise.errors import StoreError

Box = tuple[range, ...]


def box_of(name: str, shape: Sequence[int], slices: Sequence[slice] | None) -> Box:
    """The box that ``slices`` select in tensor ``name``; axes without a slice are whole.

    Raises:
        StoreError: too many slices, a step other than 1, or bounds outside ``0 <= start <=
            stop <= size`` (negative ones do not count from the end).
    """
    given = tuple(slices or ())
    if len(given) > len(shape):
        raise StoreError(
            f"{len(given)} slices for tensor {name!r} of {len(shape)} axes {tuple(shape)}: "
            "give one slice per axis at most"
        )
    padded = given + (slice(None),) * (len(shape) - len(given))
    return tuple(_checked(name, axis, size, padded[axis]) for axis, size in enumerate(shape))


def _checked(name: str, axis: int, size: int, wanted: slice) -> range:
    start = 0 if wanted.start is None else wanted.start
    stop = size if wanted.stop is None else wanted.stop
    if wanted.step not in (None, 1):
        raise StoreError(
            f"slice with step {wanted.step} on axis {axis} of tensor {name!r}: only step 1 is read"
        )
    if not 0 <= start <= stop <= size:
        raise StoreError(
            f"slice {start}:{stop} on axis {axis} of tensor {name!r} is out of range: the axis has "
            f"{size} elements, give 0 <= start <= stop <= {size}"
        )
    return range(start, stop)


def size_of(box: Box) -> int:
    """How many elements a box holds."""
    return math.prod(len(axis) for axis in box)


def overlap(left: Box, right: Box) -> Box:
    """The box of elements that both hold (with empty ranges where there are none)."""
    return tuple(
        range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(left, right, strict=True)
    )


def within(box: Box, outer: Box) -> tuple[slice | EllipsisType, ...]:
    """The index of ``box`` in an array that holds just ``outer``; always selects a view."""
    slices = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))
    # Without the ellipsis an array without axes gives a scalar, not a view.
    return (*slices, ...)


def flat_span(shape: Sequence[int], box: Box) -> range:
    """From the first to the last element of a box (not empty) in the flattened array."""
    start = last = 0
    for size, axis in zip(shape, box, strict=True):
        start = start * size + axis.start
        last = last * size + axis.stop - 1
    return range(start, last + 1)


def split_flat(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """Elements ``start:stop`` of the flattened array as boxes, in flat order.

    At most two boxes per axis, plus one: the ends of the rows that the bounds cut, and the
    whole rows between them. Each box is contiguous in the flattened array.
    """
    if start >= stop:
        return
    if not shape:
        yield ()
        return
    rest = tuple(shape[1:])
    row_size = math.prod(rest)
    first, head = divmod(start, row_size)
    last, tail = divmod(stop, row_size)
    if first == last:
        yield from _in_row(first, rest, head, tail)
        return
    if head:
        yield from _in_row(first, rest, head, row_size)
        first += 1
    if first < last:
        yield (range(first, last), *(range(size) for size in rest))
    yield from _in_row(last, rest, 0, tail)


def _in_row(row: int, rest: tuple[int, ...], start: int, stop: int) -> Iterator[Box]:
    for box in split_flat(rest, start, stop):
        yield (range(row, row + 1), *box)
