from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.errors import StoreError
from partwise.store.boxes import box_of, flat_span, size_of, split_flat

SHAPES = st.lists(st.integers(1, 6), max_size=4).map(tuple)


@given(shape=SHAPES, data=st.data())
def test_boxes_of_a_flat_run_are_its_elements_in_order(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    index = np.arange(size).reshape(shape)
    boxes = list(split_flat(shape, start, stop))
    found = [index[tuple(slice(r.start, r.stop) for r in box)].ravel() for box in boxes]
    assert np.concatenate([np.empty(0, int), *found]).tolist() == list(range(start, stop))
    assert len(boxes) <= 2 * len(shape) + 1


@given(shape=SHAPES.filter(len), data=st.data())
def test_the_span_of_a_box_reaches_from_its_first_to_its_last_element(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    starts = [data.draw(st.integers(0, size - 1)) for size in shape]
    slices = [
        slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True)
    ]
    box = box_of("w", shape, slices)
    flat = np.arange(math.prod(shape)).reshape(shape)[tuple(slices)]
    assert flat_span(shape, box) == range(flat.min(), flat.max() + 1)
    assert size_of(box) == flat.size


def test_axes_without_a_slice_are_whole() -> None:
    assert box_of("w", (3, 4, 5), (slice(1, 2), slice(None))) == (range(1, 2), range(4), range(5))
    assert box_of("w", (3,), None) == (range(3),)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ((slice(0, 4),), r"slice 0:4 on axis 0 of tensor 'w' is out of range: .* 3 elements"),
        ((slice(None), slice(-1, 2)), r"slice -1:2 on axis 1 .* 5 elements"),
        ((slice(2, 1),), "slice 2:1 on axis 0"),
        ((slice(0, 3, 2),), "step 2 on axis 0"),
        ((slice(None),) * 3, "3 slices for tensor 'w' of 2 axes"),
    ],
)
def test_a_slice_out_of_range_names_its_value_and_the_limit(
    slices: tuple[slice, ...], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        box_of("w", (3, 5), slices)
