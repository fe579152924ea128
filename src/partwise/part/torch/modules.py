"""One layer's module of transformers with its weights, and how hidden states pass through it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from partwise.model import Layer
from partwise.part.torch.families import TorchFamily
from partwise.part.torch.linear import with_few_rows_linear


def build_module(
    family: TorchFamily, layer: Layer, block: int, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """The module of ``layer`` with ``tensors``, by the names of its parameters; ``block`` counts
    the blocks of the model from 0."""
    with torch.device("meta"):
        module = with_few_rows_linear(family.module(layer, block))
    prefix = family.prefix(layer)
    state = {p.name.removeprefix(prefix): tensors[p.name] for p in layer.parameters}
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False).eval()
