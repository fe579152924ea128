"""Chains of linear layers with seeded, shuffled block-sparse masks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from partwise.model.description import (
    CutTensor,
    Layer,
    LayerKind,
    Model,
    NeuronAxis,
    NeuronKind,
    Parameter,
)

Mask = npt.NDArray[np.bool_]


def chain_model(widths: list[int]) -> Model:
    """A linear layer between each two widths, whose outputs are its neurons."""
    layers = tuple(
        Layer(
            name=f"linear.{i}",
            kind=LayerKind.BLOCK,
            parameters=(
                Parameter(
                    name=f"linear.{i}.weight",
                    shape=(outputs, inputs),
                    dtype="F32",
                    neurons=(NeuronAxis(kind="unit", axis=0, width=1),),
                ),
            ),
            neuron_kinds=(NeuronKind(name="unit", count=outputs),),
            macs_per_token=inputs * outputs,
            read_elements_per_token=inputs * outputs,
        )
        for i, (inputs, outputs) in enumerate(pairwise(widths))
    )
    return Model(
        name="chain",
        architecture="Chain",
        config_digest="",
        layers=layers,
        cut_tensors=(CutTensor(name="hidden", width=max(widths)),),
        context_tokens=1,
        vocab_size=1,
        hidden_size=max(widths),
    )


def shuffled_blocks(
    num_layers: int, num_blocks: int, block_width: int, share_across: float, seed: int
) -> list[Mask]:
    """Full diagonal blocks, ``share_across`` of all non-zero weights scattered outside them,
    and every layer's neurons shuffled."""
    rng = np.random.default_rng(seed)
    width = num_blocks * block_width
    block_of = np.arange(width) // block_width
    orders = [rng.permutation(width) for _ in range(num_layers + 1)]
    masks = []
    for before, after in pairwise(orders):
        mask = block_of[:, None] == block_of[None, :]
        num_across = round(mask.sum() * share_across / (1 - share_across))
        outside = np.flatnonzero(~mask)
        mask.ravel()[rng.choice(outside, num_across, replace=False)] = True
        masks.append(mask[np.ix_(after, before)])
    return masks
