"""Pieces of rounded matrices hold the values of the whole, wherever they are cut."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.compress.blocks import Quantized, dequantize, quantize
from partwise.model import NeuronAxis, Parameter
from partwise.part.onnx.layers import Source
from partwise.part.onnx.linear import LinearWriter
from partwise.part.onnx.pieces import cut, narrow_blocks
from partwise.part.onnx.rounding import Rounding
from partwise.part.owned import Owned

OUTPUTS, INPUTS = 24, 512


def matrix(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((OUTPUTS, INPUTS), np.float32)


def rounded(bits: int, block: int, *, zeros: str) -> Quantized:
    found = quantize(matrix(1), bits=bits, block=block, is_symmetric=zeros == "none")
    if zeros != "float":
        return found
    return Quantized(
        packed=found.packed, scales=found.scales, bits=bits, block=block,
        zero_points=np.random.default_rng(2).uniform(0, 15, found.scales.shape).astype(np.float32),
    )  # fmt: skip


def draw_ranges(data: st.DataObject, count: int) -> list[tuple[int, int]]:
    """Some of ``count`` granules, as half-open ranges."""
    owned = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    return [(i, i + 1) for i in owned]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64, 128]),
    zeros=st.sampled_from(["none", "whole", "float"]),
)
def test_columns_keep_their_values(data: st.DataObject, bits: int, block: int, zeros: str) -> None:
    whole = rounded(bits, block, zeros=zeros)
    ranges = [(32 * start, 32 * stop) for start, stop in draw_ranges(data, INPUTS // 32)]
    boxes = [(slice(0, OUTPUTS), slice(*pair)) for pair in ranges]
    expected = np.concatenate([dequantize(whole)[box] for box in boxes], axis=1)
    assert (dequantize(cut(whole, boxes)) == expected).all()


@settings(max_examples=20, deadline=None)
@given(data=st.data(), zeros=st.sampled_from(["none", "whole", "float"]))
def test_rows_keep_their_values(data: st.DataObject, zeros: str) -> None:
    whole = rounded(4, 32, zeros=zeros)
    boxes = [(slice(*pair), slice(0, INPUTS)) for pair in draw_ranges(data, OUTPUTS)]
    expected = np.concatenate([dequantize(whole)[box] for box in boxes])
    assert (dequantize(cut(whole, boxes)) == expected).all()


@pytest.mark.parametrize("zeros", ["none", "whole", "float"])
def test_smaller_blocks_are_the_same_matrix(zeros: str) -> None:
    whole = rounded(4, 128, zeros=zeros)
    narrow = narrow_blocks(whole, 16)
    assert narrow.block == 16
    assert (dequantize(narrow) == dequantize(whole)).all()


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_members_weights_are_rounded_as_those_of_the_whole(precision: str, axis: int) -> None:
    values = matrix(3)
    size = values.shape[axis]
    ranges = ((0, 32), (size - 32, size)) if axis else ((2, 3), (5, 20))
    parameter = Parameter(
        name="w", shape=values.shape, dtype="F32",
        neurons=(NeuronAxis(kind="unit", axis=axis, width=1),),
    )  # fmt: skip
    store: Any = SimpleNamespace(
        read=lambda name, box=(): values[box],
        read_quantized=lambda name: None,
        manifest=SimpleNamespace(quantized={}),
    )
    rounding = Rounding(precision=precision)
    nothing: Any = None
    owned = Owned(by_kind={"unit": ranges})
    source = Source(
        model=nothing, config={}, layers=(), rounding=rounding, store=store,
        on_read=lambda count: None, owned={"w": owned},
    )  # fmt: skip
    writer = LinearWriter(nothing, rounding)
    own = source.read_matrices([parameter])
    assert isinstance(own, np.ndarray)
    boxes = owned.slices(parameter)
    expected = np.concatenate([dequantize(writer._round(values))[box] for box in boxes], axis=axis)
    assert (dequantize(writer._round(own)) == expected).all()


def test_what_is_stored_rounded_is_cut_and_not_rounded_again() -> None:
    whole = rounded(4, 128, zeros="whole")
    parameter = Parameter(
        name="w", shape=(OUTPUTS, INPUTS), dtype="F32",
        neurons=(NeuronAxis(kind="unit", axis=1, width=1),),
    )  # fmt: skip
    store: Any = SimpleNamespace(
        read_quantized=lambda name: whole, manifest=SimpleNamespace(quantized={"w": whole})
    )
    nothing: Any = None
    read: list[int] = []
    source = Source(
        model=nothing, config={}, layers=(), rounding=Rounding(precision="int4"), store=store,
        on_read=read.append, owned={"w": Owned(by_kind={"unit": ((32, 96), (160, 192))})},
    )  # fmt: skip
    own = source.read_matrices([parameter])
    assert isinstance(own, Quantized)
    values = dequantize(whole)
    expected = np.concatenate([values[:, 32:96], values[:, 160:192]], axis=1)
    assert (dequantize(own) == expected).all()
    assert read == [96 * OUTPUTS]
