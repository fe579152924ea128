"""A version of the store that is rounded already goes into the graph as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from partwise.compress.blocks import Quantized, dequantize, quantize
from partwise.model import Parameter
from partwise.part.onnx.layers import Source
from partwise.part.onnx.linear import split_rows
from partwise.part.onnx.rounding import Rounding

NAMES = ("q", "k", "v")


def source_of(stored: dict[str, Quantized], precision: str) -> Source:
    store: Any = SimpleNamespace(
        read_quantized=stored.get,
        read=lambda name: dequantize(stored[name]),
        manifest=SimpleNamespace(quantized=stored),
    )
    nothing: Any = None
    return Source(
        model=nothing, config={}, layers=(), rounding=Rounding(precision=precision), store=store,
        on_read=lambda count: None,
    )  # fmt: skip


def matrices(bits: int, *, is_symmetric: bool) -> dict[str, Quantized]:
    random = np.random.default_rng(1)
    return {
        name: quantize(
            random.standard_normal((rows, 64), np.float32),
            bits=bits, block=32, is_symmetric=is_symmetric,
        )
        for name, rows in zip(NAMES, (8, 4, 4), strict=True)
    }  # fmt: skip


PARAMETERS = [
    Parameter(name=name, shape=(rows, 64), dtype="F32")
    for name, rows in zip(NAMES, (8, 4, 4), strict=True)
]


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_numbers_and_scales_are_taken_over(is_symmetric: bool) -> None:
    stored = matrices(4, is_symmetric=is_symmetric)
    joined = source_of(stored, "int4").read_matrices(PARAMETERS)
    assert isinstance(joined, Quantized)
    expected = np.concatenate([dequantize(stored[name]) for name in NAMES])
    assert (dequantize(joined) == expected).all()
    halves = [dequantize(half) for half in split_rows(joined, 2)]  # type: ignore[arg-type]
    assert (np.concatenate(halves) == expected).all()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_at_another_precision_their_values_are_read(precision: str) -> None:
    stored = matrices(4, is_symmetric=True)
    joined = source_of(stored, precision).read_matrices(PARAMETERS)
    assert isinstance(joined, np.ndarray)
    assert (joined == np.concatenate([dequantize(stored[name]) for name in NAMES])).all()


def test_matrices_that_a_version_keeps_at_more_bits_stay_so() -> None:
    stored = matrices(8, is_symmetric=True) | {"other": matrices(4, is_symmetric=True)["q"]}
    joined = source_of(stored, "int4").read_matrices(PARAMETERS)
    assert isinstance(joined, Quantized)
    assert joined.bits == 8
    expected = np.concatenate([dequantize(stored[name]) for name in NAMES])
    assert (dequantize(joined) == expected).all()
