"""What a decoder block really allocates while it computes: the torch runner's, whose attention is
fused, and the same block with every step an operation of its own.

Counted as in `partwise.distributor.operators`: what operations return, input and output too;
scratch that a kernel takes and gives back inside is not seen.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from partwise.model import LayerKind, Model
from partwise.part.torch.attention import register_attention
from partwise.part.torch.families import TorchFamily, torch_family
from partwise.part.torch.kv import ContiguousKv
from partwise.part.torch.modules import build_module


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations make; what their first operation finds is not theirs.

    A context manager; ``peak`` is the most that was alive at a time inside it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._known.add(tensor.untyped_storage()._cdata)
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        num_bytes = storage.nbytes()
        self._alive += num_bytes
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, key, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._alive -= num_bytes


@torch.inference_mode()
def measure_block(model: Model, config: dict[str, Any], tokens: int) -> tuple[int, int]:
    """Peak bytes of the first block with a pass of ``tokens``: as the runner computes it, and
    with transformers' own modules and attention in single steps. Weights are zero."""
    register_attention()
    ours, theirs = (torch_family(model.architecture, config) for _ in range(2))
    theirs.config = copy.copy(theirs.config)
    theirs.config._attn_implementation = "eager"
    layer = next(layer for layer in model.layers if layer.kind is LayerKind.BLOCK)
    tensors = {p.name: torch.zeros(p.shape) for p in layer.parameters}
    num_heads = getattr(ours.config, "num_key_value_heads", None) or ours.config.num_attention_heads
    kv = ContiguousKv([num_heads], layer.kv_elements_per_token // (2 * num_heads))
    rows = {"rows": [kv.row(0, 0, 0, tokens)], "block": 0}
    fused = _peak(build_module(ours, layer, 0, tensors), ours, model, tokens, rows)
    mask = torch.full((1, 1, tokens, tokens), -1e9).triu(1)
    single = build_module(theirs, layer, 0, tensors)
    return fused, _peak(single, theirs, model, tokens, {"attention_mask": mask})


def _peak(
    module: nn.Module, family: TorchFamily, model: Model, tokens: int, arguments: dict[str, Any]
) -> int:
    positions = family.block_arguments(torch.arange(tokens).unsqueeze(0))
    hidden = torch.zeros(1, tokens, model.hidden_size)
    with PeakBytes() as peak:
        module(hidden, **positions, **arguments)
    return int(peak.peak + hidden.nbytes)
