"""Linear layers as ONNX Runtime computes them: one product, in fp32 or on blocks of few bits.

Shapes: I inputs, O outputs of a layer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partwise.compress.blocks import Quantized, fit_grid, round_to
from partwise.compress.scales import search_grid
from partwise.part.onnx.graph import MICROSOFT, GraphWriter
from partwise.part.onnx.pieces import join_rows
from partwise.part.onnx.rounding import Rounding

Floats = NDArray[np.float32]

ACCURACY_LEVEL = 4
"""Inputs are rounded to int8 by blocks, and products summed as integers: the fast kernels."""
ROUNDED_AT_ONCE = 1 << 20
"""Weights, of a matrix."""

Weight = Floats | Quantized


def split_rows(weight: Weight, count: int) -> list[Weight]:
    """``count`` matrices of as many outputs each."""
    if not isinstance(weight, Quantized):
        return list(np.split(weight, count))
    size = weight.shape[0] // count
    return [weight.rows(i * size, (i + 1) * size) for i in range(count)]


class LinearWriter:
    """Writes linear layers into a graph."""

    def __init__(self, graph: GraphWriter, rounding: Rounding) -> None:
        self._graph = graph
        self._rounding = rounding

    def write(self, name: str, value: str, weight_OI: Weight, bias_O: Floats | None) -> str:
        """The name of ``value`` times the weight, plus the bias."""
        bias = None if bias_O is None else self._graph.weight(f"{name}.bias", bias_O)
        if isinstance(weight_OI, Quantized):
            return self._rounded(name, value, weight_OI, bias)
        if not self._rounding.is_rounded:
            return self._plain(name, value, weight_OI, bias)
        return self._rounded(name, value, self._round(weight_OI), bias)

    def _plain(self, name: str, value: str, weight_OI: Floats, bias: str | None) -> str:
        weight = self._graph.weight(f"{name}.weight", np.ascontiguousarray(weight_OI.T))
        (product,) = self._graph.node("MatMul", [value, weight])
        return product if bias is None else self._graph.node("Add", [product, bias])[0]

    def _round(self, weight_OI: Floats) -> Quantized:
        """Some rows at a time: what is in between takes several times as much as they do."""
        rounding, num_rows = self._rounding, max(1, ROUNDED_AT_ONCE // weight_OI.shape[1])
        find_grid = search_grid if rounding.is_searched else fit_grid
        rounded = []
        for start in range(0, len(weight_OI), num_rows):
            rows = weight_OI[start : start + num_rows]
            grid = find_grid(
                rows,
                bits=rounding.bits,
                block=rounding.block,
                is_symmetric=rounding.is_symmetric,
            )
            rounded.append(round_to(rows, grid))
        return join_rows(rounded)

    def _rounded(self, name: str, value: str, quantized: Quantized, bias: str | None) -> str:
        write = self._graph.weight
        inputs = [
            value,
            write(f"{name}.packed", quantized.packed),
            write(f"{name}.scales", quantized.scales),
        ]
        if quantized.zero_points is not None:
            inputs.append(write(f"{name}.zero_points", quantized.zero_points))
        if bias is not None:
            inputs += [""] * (5 - len(inputs)) + [bias]
        num_outputs, num_inputs = quantized.shape
        attributes = {"N": num_outputs, "K": num_inputs, "bits": quantized.bits}
        (product,) = self._graph.node(
            "MatMulNBits", inputs, domain=MICROSOFT, block_size=quantized.block,
            accuracy_level=ACCURACY_LEVEL, **attributes,
        )  # fmt: skip
        return product
