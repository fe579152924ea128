"""Runs the layers of one part with PyTorch.

Only the part's own layers are built, on the meta device, and only its weights are read.

Shapes: N tokens of the pass, R rows that ask for a pick, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from partwise.model import Layer, LayerKind
from partwise.part.finite import not_finite
from partwise.part.runner import RunnerOptions
from partwise.part.torch.attention import register_attention
from partwise.part.torch.families import TorchFamily, torch_family
from partwise.part.torch.kv import ContiguousKv, KvCache, KvRow
from partwise.part.torch.modules import build_module
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array


class TorchRunner:
    """The layers ``start:stop`` of a model, whole, in fp32 on the CPU."""

    def __init__(self, options: RunnerOptions) -> None:
        register_attention()
        if options.threads:
            torch.set_num_threads(options.threads)
        stage = options.plan.stage_of(options.part)
        model = options.model
        self._part = options.part
        self._where = model.describe_range(stage.start, stage.stop)
        self._family = torch_family(model.architecture, options.store.config)
        self._layers = model.layers[stage.start : stage.stop]
        before = sum(layer.kind is LayerKind.BLOCK for layer in model.layers[: stage.start])
        weights = _Weights(options, self._layers)
        self._modules = [
            weights.fill(self._family, layer, before + index)
            for index, layer in zip(_count_blocks(self._layers), self._layers, strict=True)
        ]
        self.weight_bytes = weights.total_bytes
        self.notes: tuple[str, ...] = ()
        self._kv = _make_kv(self._family, self._layers)

    @torch.inference_mode()
    def run(
        self,
        rows: Sequence[Row],
        inputs: Sequence[Array],
        between_layers: Callable[[], None],
    ) -> tuple[Array, ...]:
        """See `Runner.run`."""
        kv_rows, positions_1N = self._open_rows(rows)
        arguments = self._family.block_arguments(positions_1N) if self._kv else {}
        hidden = torch.from_numpy(inputs[0])
        if hidden.dtype == torch.float32:
            hidden = hidden.unsqueeze(0)
        block = 0
        for layer, module in zip(self._layers, self._modules, strict=True):
            if layer.kind is LayerKind.BLOCK:
                hidden = module(hidden, **arguments, rows=kv_rows, block=block)
                block += 1
            elif layer.kind is LayerKind.EMBEDDING:
                hidden = self._family.embed(module, hidden, positions_1N)
            elif layer.kind is LayerKind.NORM:
                hidden = module(hidden)
            else:
                return self._pick(module, hidden, rows)
            between_layers()
        self._check(hidden, rows)
        return (np.ascontiguousarray(hidden[0].numpy()),)

    def release(self, sequences: Sequence[int]) -> None:
        """See `Runner.release`."""
        if self._kv:
            self._kv.release(sequences)

    def _open_rows(self, rows: Sequence[Row]) -> tuple[list[KvRow], Tensor]:
        """The rows' caches and the positions of their tokens, (1, N)."""
        kv_rows: list[KvRow] = []
        positions: list[int] = []
        for row in rows:
            start = len(positions)
            positions.extend(range(row.position, row.position + row.num_tokens))
            if self._kv:
                kv_rows.append(self._kv.row(row.sequence, row.position, start, len(positions)))
        return kv_rows, torch.tensor([positions])

    def _pick(self, head: nn.Module, hidden: Tensor, rows: Sequence[Row]) -> tuple[Array, ...]:
        """Greedy picks of the last token of each row that asks; see `Runner.run`."""
        wanted = RowFlag.NONE
        last: list[int] = []
        end = 0
        for row in rows:
            end += row.num_tokens
            if row.flags & RowFlag.PICK:
                last.append(end - 1)
                wanted |= RowFlag(row.flags)
        if not last:
            return (np.empty(0, np.int64),)
        logits_RV: Tensor = head(hidden[0, last])
        self._check(logits_RV, rows)
        ids_R = logits_RV.argmax(-1)
        outputs: list[Array] = [ids_R.numpy()]
        if wanted & RowFlag.LOGPROB:
            chosen = logits_RV.gather(-1, ids_R.unsqueeze(-1)).squeeze(-1)
            outputs.append((chosen - logits_RV.logsumexp(-1)).numpy())
        if wanted & RowFlag.LOGITS:
            outputs.append(np.ascontiguousarray(logits_RV.numpy()))
        return tuple(outputs)

    def _check(self, values: Tensor, rows: Sequence[Row]) -> None:
        # The sum is finite for almost every finite tensor and costs one pass over it.
        if torch.isfinite(values.sum()) or bool(torch.isfinite(values).all()):
            return
        raise not_finite(self._part, self._where, rows)


def _count_blocks(layers: Sequence[Layer]) -> list[int]:
    """For each layer the number of blocks among those before it."""
    is_block = [layer.kind is LayerKind.BLOCK for layer in layers]
    return [sum(is_block[:i]) for i in range(len(layers))]


def _make_kv(family: TorchFamily, layers: Sequence[Layer]) -> KvCache | None:
    blocks = [layer for layer in layers if layer.kind is LayerKind.BLOCK]
    if not blocks:
        return None
    config = family.config
    num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = blocks[0].kv_elements_per_token // (2 * num_heads)
    return ContiguousKv(len(blocks), num_heads, head_size)


class _Weights:
    """Reads the parameters of a part once each; tied ones share their tensor."""

    def __init__(self, options: RunnerOptions, layers: Sequence[Layer]) -> None:
        self._store = options.store
        self._report = options.on_progress
        self._read: dict[str, Tensor] = {}
        sizes = {p.stored_name: p.num_elements * 4 for layer in layers for p in layer.parameters}
        self.total_bytes = sum(sizes.values())
        self._done_bytes = 0

    def fill(self, family: TorchFamily, layer: Layer, block: int) -> nn.Module:
        """The module of ``layer`` with its weights."""
        tensors = {p.name: self._tensor(p.stored_name) for p in layer.parameters}
        return build_module(family, layer, block, tensors)

    def _tensor(self, stored_name: str) -> Tensor:
        if stored_name not in self._read:
            tensor = torch.from_numpy(self._store.read(stored_name))
            self._read[stored_name] = tensor
            self._done_bytes += tensor.nbytes
            self._report(self._done_bytes, self.total_bytes)
        return self._read[stored_name]
