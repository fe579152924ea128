"""Which parameters of a layer are matrices, and which way round they lie.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from partwise.model import Layer, LayerKind, Model, Parameter
from partwise.model.families.family import MLP_UNIT

INPUTS_FIRST = frozenset({"GPT2LMHeadModel"})
"""Architectures whose blocks multiply by (inputs, outputs): transformers' Conv1D."""

MLP_WIDTH_KEYS = {"GPT2LMHeadModel": "n_inner"}
"""What config.json calls the number of MLP units where it is not ``intermediate_size``."""


def matrices_of(layer: Layer) -> list[Parameter]:
    """The parameters that activations are multiplied by."""
    if layer.kind not in (LayerKind.BLOCK, LayerKind.HEAD):
        return []
    return [parameter for parameter in layer.parameters if len(parameter.shape) == 2]


def is_transposed(model: Model, layer: Layer) -> bool:
    """Whether the matrices of ``layer`` have their inputs first."""
    return layer.kind is LayerKind.BLOCK and model.architecture in INPUTS_FIRST


def outputs_first(weight: NDArray[np.float32], has_inputs_first: bool) -> NDArray[np.float32]:
    """A matrix as (O, I), and such a one the way that the model has it: it is its own inverse."""
    return np.ascontiguousarray(weight.T) if has_inputs_first else weight


def down_projection(layer: Layer) -> Parameter | None:
    """The matrix whose inputs are the MLP's neurons; None where a layer has no MLP."""
    matrices = [m for m in matrices_of(layer) if any(a.kind == MLP_UNIT for a in m.neurons)]
    return matrices[-1] if matrices else None


def neuron_indices(
    parameter: Parameter, kept: NDArray[np.intp]
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """For each axis of ``parameter`` along which MLP neurons lie: the axis, and the elements of
    the neurons ``kept``. A fused matrix has several runs of them on one axis."""
    for axis in sorted({a.axis for a in parameter.neurons if a.kind == MLP_UNIT}):
        runs = [a for a in parameter.neurons if a.kind == MLP_UNIT and a.axis == axis]
        yield axis, np.concatenate([run.offset + kept for run in runs])
