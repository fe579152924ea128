"""Pieces of rounded matrices: some of their outputs, or some blocks of their inputs.

No number is rounded again: a piece computes with the values of the whole.

Shapes: O outputs, B blocks of an output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.store.quantized import MIN_BLOCK, Quantized, pack, unpack

Boxes = Sequence[tuple[slice, ...]]


def join_rows(weights: Sequence[Quantized]) -> Quantized:
    """Matrices with the same inputs, blocks and kind of zeros as one."""
    if len(weights) == 1:
        return weights[0]
    zeros = [weight.zero_points for weight in weights if weight.zero_points is not None]
    return Quantized(
        packed=np.concatenate([weight.packed for weight in weights]),
        scales=np.concatenate([weight.scales for weight in weights]),
        zero_points=np.concatenate(zeros) if zeros else None,
        bits=weights[0].bits,
        block=weights[0].block,
    )


def cut(matrix: Quantized, boxes: Boxes) -> Quantized:
    """What one or more ``boxes`` (outputs, inputs) select, joined along the axis in which they
    differ from the whole. Where they cut blocks, these become several with the same scale.

    The bounds of inputs are multiples of MIN_BLOCK: a verified plan cuts at its granules.
    """
    num_outputs, num_inputs = matrix.shape
    outputs, inputs = ([box[axis] for box in boxes] for axis in (0, 1))
    if any((one.start, one.stop) != (0, num_outputs) for one in outputs):
        return join_rows([matrix.rows(one.start, one.stop) for one in outputs])
    if [(one.start, one.stop) for one in inputs] == [(0, num_inputs)]:
        return matrix
    bounds = [bound for one in inputs for bound in (one.start, one.stop)]
    block = math.gcd(matrix.block, *bounds)
    assert block >= MIN_BLOCK, f"inputs {bounds} are cut within a block of {MIN_BLOCK}"
    matrix = narrow_blocks(matrix, block)
    kept = [np.arange(one.start // block, one.stop // block) for one in inputs]
    return _take_blocks(matrix, np.concatenate(kept))


def narrow_blocks(matrix: Quantized, block: int) -> Quantized:
    """The same matrix in blocks of ``block``, which divides its own."""
    factor = matrix.block // block
    if factor == 1:
        return matrix
    num_outputs, num_blocks = matrix.scales.shape
    zeros = _unpack_zeros(matrix)
    return Quantized(
        packed=matrix.packed.reshape(num_outputs, num_blocks * factor, -1),
        scales=np.repeat(matrix.scales, factor, axis=1),
        zero_points=_pack_zeros(
            None if zeros is None else np.repeat(zeros, factor, axis=1), matrix
        ),
        bits=matrix.bits,
        block=block,
    )


def _take_blocks(matrix: Quantized, blocks: NDArray[np.int64]) -> Quantized:
    zeros = _unpack_zeros(matrix)
    return Quantized(
        packed=matrix.packed[:, blocks],
        scales=matrix.scales[:, blocks],
        zero_points=_pack_zeros(None if zeros is None else zeros[:, blocks], matrix),
        bits=matrix.bits,
        block=matrix.block,
    )


def _unpack_zeros(matrix: Quantized) -> NDArray[Any] | None:
    """(O, B), uint8 or float32."""
    zeros = matrix.zero_points
    if zeros is None or zeros.dtype == np.float32:
        return zeros
    return unpack(zeros, matrix.bits, matrix.scales.shape[1])


def _pack_zeros(zeros: NDArray[Any] | None, matrix: Quantized) -> NDArray[Any] | None:
    """As those of ``matrix`` are."""
    if zeros is None or zeros.dtype == np.float32:
        return zeros
    return pack(zeros.astype(np.uint8), matrix.bits)
