"""One layer's module of transformers with its weights, whole or with the neurons of one member."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from partwise.model import Layer, LayerKind
from partwise.model.families.family import VOCABULARY_ROW
from partwise.part.exchange import Exchange
from partwise.part.owned import Owned
from partwise.part.torch.families import TorchFamily
from partwise.part.torch.halves import AbsentHalf, Half, Summed
from partwise.part.torch.linear import with_few_rows_linear
from partwise.part.torch.vocabulary import NoRows, OwnedTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a part owns of a layer that it shares with the other members of its stage."""

    owned: Owned
    exchange: Exchange


def _prepare(family: TorchFamily, module: nn.Module) -> nn.Module:
    """``module``, without weights yet, with the linear layers that are fast at its place: torch's
    own read bf16 no slower (on CPUs measured at 1 to 64 rows), and on GPUs nobody has looked."""
    return with_few_rows_linear(module) if family.place.is_plain else module


def build_module(
    family: TorchFamily, layer: Layer, block: int, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """The module of ``layer`` with ``tensors``, by the names of its parameters; ``block`` counts
    the blocks of the model from 0."""
    with torch.device("meta"):
        module = _prepare(family, family.module(layer, block))
    return _load(module, family.state(layer, tensors))


def build_shared(
    family: TorchFamily, layer: Layer, block: int, tensors: Mapping[str, Tensor], share: Share
) -> nn.Module:
    """As `build_module`, with the neurons of ``share``, to which ``tensors`` are cut. It gives what
    the whole layer does, by exchanges with the other members; but a head the logits of its rows."""
    match layer.kind:
        case LayerKind.EMBEDDING:
            return _build_embedding(family, layer, tensors, share)
        case LayerKind.HEAD if not share.owned.by_kind[VOCABULARY_ROW]:
            return NoRows()
        case LayerKind.BLOCK:
            return _build_block(family, layer, block, tensors, share)
        case _:
            with torch.device("meta"):
                module = _prepare(family, family.module(layer, block, share.owned))
            return _load(module, family.state(layer, tensors))


def _build_embedding(
    family: TorchFamily, layer: Layer, tensors: Mapping[str, Tensor], share: Share
) -> nn.Module:
    (rows,) = (kind for kind in layer.neuron_kinds if kind.name == VOCABULARY_ROW)
    shape = (rows.count, family.config.hidden_size)
    with torch.device("meta"):
        table = OwnedTable(share.owned.by_kind[VOCABULARY_ROW], shape, share.exchange)
        module = _put(family.embedding(), family.table, table)
    return _load(module, family.state(layer, tensors))


def _build_block(
    family: TorchFamily, layer: Layer, block: int, tensors: Mapping[str, Tensor], share: Share
) -> nn.Module:
    by_kind = share.owned.by_kind
    present = Owned(by_kind={kind: ranges for kind, ranges in by_kind.items() if ranges})
    with torch.device("meta"):
        module = _prepare(family, family.module(layer, block, present))
    # Of an expert that another member owns there is no tensor.
    state = {name: t for name, t in family.state(layer, tensors).items() if t.numel()}
    for half in family.halves:
        if half.kind in by_kind and not by_kind[half.kind]:
            state = _remove(module, half, state, share.exchange)
    _load(module, state)
    for half in family.halves:
        if present.is_split(half.kind):
            _put(module, half.end, Summed(module.get_submodule(half.end), share.exchange))
    return module


def _remove(
    module: nn.Module, half: Half, state: Mapping[str, Tensor], exchange: Exchange
) -> dict[str, Tensor]:
    """Take ``half`` out of ``module``, but for its place in the sums; the rest of ``state``."""
    bias = state.get(f"{half.end}.bias")
    _put(module, half.path, AbsentHalf(exchange, bias, is_pair=half.is_pair))
    return {name: t for name, t in state.items() if not name.startswith(f"{half.path}.")}


def _put(root: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """``root`` with ``module`` at ``path`` of it; ``module`` itself where that is empty."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)
    return root


def _load(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False).eval()
