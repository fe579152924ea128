"""Runs the layers of one part with PyTorch: whole, or with the neurons that the part owns of them.

Only the part's own layers are built, on the meta device, and only what it owns of their weights is
read. What it exchanges with the other members of its stage is in `halves.py`, `vocabulary.py` and
`picks.py`.

Shapes: N tokens of the pass, R rows that ask for a pick, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from partwise.distributor.plan import Stage
from partwise.model import Layer, LayerKind
from partwise.model.families.family import KV_GROUP
from partwise.part.finite import not_finite
from partwise.part.owned import Owned, find_owned_neurons
from partwise.part.runner import RunnerOptions
from partwise.part.shared_head import find_shared_head
from partwise.part.torch.attention import register_attention
from partwise.part.torch.families import TorchFamily, torch_family
from partwise.part.torch.kv import ContiguousKv, KvCache, KvRow
from partwise.part.torch.modules import Share, build_module, build_shared
from partwise.part.torch.picks import find_asked, is_finite, pick, pick_shared
from partwise.part.torch.place import DTYPES, Place, describe_device, find_device, to_array
from partwise.part.torch.weights import PartWeights
from partwise.remote.frame import Row
from partwise.remote.layout import Array


class TorchRunner:
    """The layers ``start:stop`` of a model, in fp32 or bf16, on the device of its server."""

    def __init__(self, options: RunnerOptions) -> None:
        register_attention()
        if options.threads:
            torch.set_num_threads(options.threads)
        stage = options.plan.stage_of(options.part)
        model = options.model
        self._part = options.part
        self._where = model.describe_range(stage.start, stage.stop)
        self._place = _find_place(options)
        self._family = torch_family(model.architecture, options.store.config)
        self._family.move(self._place)
        self._layers = model.layers[stage.start : stage.stop]
        owned = _find_owned(options, stage)
        weights = PartWeights(options, self._layers, owned, self._place)
        before = sum(layer.kind is LayerKind.BLOCK for layer in model.layers[: stage.start])
        blocks = [before + index for index in _count_blocks(self._layers)]
        self._modules = [
            _build(options, self._family, layer, block, own, weights)
            for layer, block, own in zip(self._layers, blocks, owned, strict=True)
        ]
        self.weight_bytes = weights.total_bytes
        self.host_bytes = self.weight_bytes
        self.notes: tuple[str, ...] = ()
        if self._place.device.type != "cpu":
            self.host_bytes = 0
            self.notes = (f"{options.part} computes on {describe_device(self._place.device)}",)
        self._kv = _make_kv(self._layers, owned, self._place)
        self._shared_head = find_shared_head(options)

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
        hidden = self._place.put(torch.from_numpy(inputs[0]))
        if hidden.is_floating_point():
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
        return (np.ascontiguousarray(to_array(hidden[0])),)

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
        return kv_rows, torch.tensor([positions], device=self._place.device)

    def _pick(self, head: nn.Module, hidden: Tensor, rows: Sequence[Row]) -> tuple[Array, ...]:
        """Greedy picks of the last token of each row that asks; see `Runner.run`."""
        asked = find_asked(rows)
        if not asked.last:
            return (np.empty(0, np.int64),)
        logits: Tensor = head(hidden[0, asked.last]).float()
        if self._shared_head is not None:
            return pick_shared(self._shared_head, logits.cpu(), rows, asked.flags)
        self._check(logits, rows)
        return pick(logits, asked.flags)

    def _check(self, values: Tensor, rows: Sequence[Row]) -> None:
        if not is_finite(values):
            raise not_finite(self._part, self._where, rows)


def _find_place(options: RunnerOptions) -> Place:
    """The server's device, at the precision of the plan."""
    dtype = DTYPES[options.plan.part(options.part).precision]
    return Place(device=find_device(options.device), dtype=dtype)


def _find_owned(options: RunnerOptions, stage: Stage) -> list[Owned]:
    """What the part owns of each layer of ``stage``: all where it has no other members."""
    if options.exchange is None:
        return [Owned()] * (stage.stop - stage.start)
    return [
        _restrict(find_owned_neurons(options.plan, options.part, i), options.model.layers[i])
        for i in range(stage.start, stage.stop)
    ]


def _restrict(owned: Owned, layer: Layer) -> Owned:
    """``owned`` of the kinds that ``layer`` has: the plan says it of many layers at once."""
    kinds = [kind.name for kind in layer.neuron_kinds]
    return Owned(by_kind={kind: owned.by_kind[kind] for kind in kinds if owned.is_split(kind)})


def _count_blocks(layers: Sequence[Layer]) -> list[int]:
    """For each layer the number of blocks among those before it."""
    is_block = [layer.kind is LayerKind.BLOCK for layer in layers]
    return [sum(is_block[:i]) for i in range(len(layers))]


def _build(
    options: RunnerOptions,
    family: TorchFamily,
    layer: Layer,
    block: int,
    owned: Owned,
    weights: PartWeights,
) -> nn.Module:
    tensors = weights.read(layer, owned)
    if options.exchange is None or not owned.by_kind:
        return build_module(family, layer, block, tensors)
    share = Share(owned=owned, exchange=options.exchange)
    return build_shared(family, layer, block, tensors, share)


def _make_kv(layers: Sequence[Layer], owned: Sequence[Owned], place: Place) -> KvCache | None:
    """Room for the KV heads that are owned, one of each group."""
    num_heads: list[int] = []
    head_size = 0
    for layer, own in zip(layers, owned, strict=True):
        for kind in layer.neuron_kinds:
            if kind.name == KV_GROUP:
                num_heads.append(own.count(KV_GROUP, kind.count))
                head_size = layer.kv_elements_per_token // (2 * kind.count)
    return ContiguousKv(num_heads, head_size, place) if num_heads else None
