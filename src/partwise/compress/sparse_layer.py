"""One block without some of its MLP neurons, and the same block with them at zero."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from partwise.compress.activations import Weights
from partwise.compress.matrices import (
    down_projection,
    is_transposed,
    neuron_indices,
    outputs_first,
)
from partwise.compress.neurons import choose_kept, correct_down, rank_neurons
from partwise.compress.recipe import Recipe
from partwise.model import Layer, Model, Parameter

Moments = Mapping[str, NDArray[np.float64]]


def choose_neurons(
    model: Model, layer: Layer, weights: Weights, moments: Moments, recipe: Recipe
) -> NDArray[np.intp]:
    """The MLP neurons of ``layer`` that stay, ascending.

    Raises:
        CompressionError: as `choose_kept`.
    """
    down = _down(layer)
    down_OI = outputs_first(weights[down.name], is_transposed(model, layer))
    ranks = rank_neurons(down_OI, moments[down.name])
    return choose_kept(ranks, recipe.mlp_sparsity, recipe.block if recipe.bits else 1)


def remove_neurons(
    model: Model, layer: Layer, weights: Weights, moments: Moments, kept: NDArray[np.intp]
) -> dict[str, NDArray[np.float32]]:
    """The parameters of ``layer`` with the neurons ``kept`` alone, its down projection corrected
    for the loss of the others."""
    down, has_inputs_first = _down(layer), is_transposed(model, layer)
    cut = {p.name: _take(p, weights[p.name], kept) for p in layer.parameters}
    down_OI = outputs_first(weights[down.name], has_inputs_first)
    corrected_OK = correct_down(down_OI, moments[down.name], kept)
    cut[down.name] = outputs_first(corrected_OK, has_inputs_first)
    return cut


def restore_shape(
    parameter: Parameter, cut: NDArray[np.float32], kept: NDArray[np.intp]
) -> NDArray[np.float32]:
    """A parameter of `remove_neurons` in its former shape, the removed neurons zero."""
    whole = cut
    for axis, indices in neuron_indices(parameter, kept):
        shape = list(whole.shape)
        shape[axis] = parameter.shape[axis]
        filled = np.zeros(shape, np.float32)
        filled[(slice(None),) * axis + (indices,)] = whole
        whole = filled
    return whole


def _take(
    parameter: Parameter, weight: NDArray[np.float32], kept: NDArray[np.intp]
) -> NDArray[np.float32]:
    for axis, indices in neuron_indices(parameter, kept):
        weight = np.take(weight, indices, axis=axis)
    return np.ascontiguousarray(weight)


def _down(layer: Layer) -> Parameter:
    down = down_projection(layer)
    assert down is not None, f"{layer.name} has no MLP: only blocks lose neurons"
    return down
