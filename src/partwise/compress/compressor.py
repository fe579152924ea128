"""Makes a compressed version of a model, layer by layer: no more than one is in memory.

It measures nothing: see `accuracy.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partwise.compress.activations import Activations, Weights
from partwise.compress.blocks import Quantized, check_block, dequantize
from partwise.compress.encoder import Encoder
from partwise.compress.matrices import (
    MLP_WIDTH_KEYS,
    down_projection,
    is_transposed,
    matrices_of,
    outputs_first,
)
from partwise.compress.neurons import thin_out
from partwise.compress.recipe import Recipe
from partwise.compress.sparse_layer import (
    Moments,
    choose_neurons,
    remove_neurons,
    restore_shape,
)
from partwise.errors import CompressionError
from partwise.model import Layer, LayerKind, Model, Parameter
from partwise.store import Manifest, Store, VersionWriter, new_version

Report = Callable[[str, int, int], None]
"""Called with (step, layers done, layers in all)."""
Kept = NDArray[np.intp] | None
"""The MLP neurons that a block keeps; None: all."""
Changed = dict[str, NDArray[np.float32] | Quantized]
"""Parameters that a version stores for itself, by name; matrices that are quantised as (O, I)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A version that was made, and how many matrices were rounded which way."""

    manifest: Manifest
    ways: dict[str, int]

    @property
    def num_bytes(self) -> int:
        """Of all its tensors."""
        return sum(tensor.num_bytes for tensor in self.manifest.tensors.values())


def compress(
    path: Path,
    model: Model,
    source: Store,
    recipe: Recipe,
    activations: Activations | None,
    report: Report,
) -> Made:
    """Write a new version of the model in ``path``, made from ``source``, which ``model``
    describes. ``activations`` are at the first layer; None: ``recipe`` needs none.

    Raises:
        CompressionError: a block does not divide, or the recipe does not suit the model.
        StoreError: the version cannot be written.
    """
    assert activations is not None or not recipe.needs_calibration
    check_recipe(model, recipe)
    with new_version(path, source) as writer:
        work = _Work(model, source, recipe, activations, writer)
        for index in range(len(model.layers)):
            report(f"compressing to {recipe.step}", index, len(model.layers))
            work.do_layer(index)
        report(f"compressing to {recipe.step}", len(model.layers), len(model.layers))
        manifest = writer.commit(work.recipe, work.config())
    return Made(manifest=manifest, ways=work.ways)


def check_recipe(model: Model, recipe: Recipe) -> None:
    """Refuse what does not suit the model, before anything is computed.

    Raises:
        CompressionError: a block does not divide; names the first matrix, and the blocks that
            would do. Or a block has no MLP whose units could be removed.
    """
    for layer in model.layers:
        if recipe.mlp_sparsity and layer.kind is LayerKind.BLOCK and not down_projection(layer):
            raise CompressionError(
                f"{layer.name} has no MLP to remove units of, but experts: leave the sparsity out,"
                " or make it 2:4"
            )
    if recipe.bits is None:
        return
    for layer in model.layers:
        for matrix in matrices_of(layer):
            inputs = matrix.shape[0 if is_transposed(model, layer) else 1]
            check_block(inputs, recipe.block, matrix.name)


class _Work:
    """What is carried from layer to layer."""

    def __init__(
        self,
        model: Model,
        source: Store,
        recipe: Recipe,
        activations: Activations | None,
        writer: VersionWriter,
    ) -> None:
        self._model = model
        self._source = source
        self._recipe = recipe
        self._activations = activations
        self._writer = writer
        self._encoder = Encoder(recipe) if recipe.bits else None
        self._num_kept: int | None = None

    @property
    def ways(self) -> dict[str, int]:
        """See `Made`."""
        return dict(self._encoder.ways) if self._encoder else {}

    @property
    def recipe(self) -> str:
        """All that was done to the model's own files."""
        before = self._source.manifest.derivation
        return f"{before.recipe}; then {self._recipe.label}" if before else self._recipe.label

    def config(self) -> dict[str, int | float | str | bool]:
        """What config.json says otherwise than in the source."""
        # The recipe is there so that plans and runners tell the versions of a model apart.
        values: dict[str, int | float | str | bool] = {"partwise_recipe": self.recipe}
        if self._num_kept is not None:
            key = MLP_WIDTH_KEYS.get(self._model.architecture, "intermediate_size")
            values[key] = self._num_kept
        return values

    def do_layer(self, index: int) -> None:
        """Compress layer ``index`` and write it; the activations go on with what came out."""
        layer = self._model.layers[index]
        weights = {p.name: self._source.read(p.stored_name) for p in layer.parameters}
        moments: Moments = {}
        if self._activations is not None and matrices_of(layer):
            moments = self._activations.moments(index, weights)
        kept: Kept = None
        if layer.kind is LayerKind.BLOCK and self._recipe.mlp_sparsity:
            kept = choose_neurons(self._model, layer, weights, moments, self._recipe)
            self._num_kept = len(kept)
            weights = remove_neurons(self._model, layer, weights, moments, kept)
            moments = _without_removed(layer, moments, kept)
        changed: Changed = {}
        for parameter in layer.parameters:
            value = self._choose(layer, parameter, weights[parameter.name], moments)
            if value is not None:
                changed[parameter.name] = value
            elif parameter.alias_of is None:
                self._writer.keep(parameter.stored_name)
        self._write(layer, index, changed)
        if self._activations is not None:
            self._activations.advance(index, self._as_run(layer, {**weights, **changed}, kept))

    def _choose(
        self, layer: Layer, parameter: Parameter, weight: NDArray[np.float32], moments: Moments
    ) -> NDArray[np.float32] | Quantized | None:
        """What the version stores of a parameter; None: what its source does."""
        is_block = layer.kind is LayerKind.BLOCK
        if parameter in matrices_of(layer):
            weight_OI = self._outputs_first(layer, weight)
            if is_block and self._recipe.is_two_four:
                weight_OI = thin_out(weight_OI, moments[parameter.name])
                weight = self._outputs_first(layer, weight_OI)
            if self._encoder is not None:
                if parameter.alias_of and self._encoder.shares_table:
                    return None
                return self._encoder.encode(weight_OI, moments.get(parameter.name))
            if is_block and self._recipe.is_two_four:
                return weight
        elif self._encoder is not None and _is_table(layer, parameter):
            return self._encoder.encode_table(weight)
        return weight if weight.shape != parameter.shape else None

    def _write(self, layer: Layer, index: int, changed: Changed) -> None:
        if changed:
            transposed = changed if is_transposed(self._model, layer) else ()
            self._writer.write(f"layer-{index:05d}", changed, transposed)

    def _as_run(
        self, layer: Layer, values: dict[str, NDArray[np.float32] | Quantized], kept: Kept
    ) -> Weights:
        """What runs from now on, in the shapes of the model: removed neurons are zero."""
        run = {}
        for parameter in layer.parameters:
            value = values[parameter.name]
            if isinstance(value, Quantized):
                value = self._outputs_first(layer, dequantize(value))
            run[parameter.name] = value if kept is None else restore_shape(parameter, value, kept)
        return run

    def _outputs_first(self, layer: Layer, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        return outputs_first(weight, is_transposed(self._model, layer))


def _is_table(layer: Layer, parameter: Parameter) -> bool:
    """Whether a parameter is the token table: other tables of an embedding are small."""
    return layer.kind is LayerKind.EMBEDDING and parameter == layer.parameters[0]


def _without_removed(layer: Layer, moments: Moments, kept: NDArray[np.intp]) -> Moments:
    down = down_projection(layer)
    assert down is not None
    return {**moments, down.name: moments[down.name][np.ix_(kept, kept)]}
