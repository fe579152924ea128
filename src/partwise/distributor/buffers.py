"""What a part's passes take for activations and temporary buffers, with and without fusion.

One sequence a pass: a chunk of a prompt at the end of its context, or one decoded token. What
operators hold between them is worked out in `operators.py`, in fp32: for a part in bf16 that is a
bound from above. The footprint that plans are checked against (`footprint.py`) counts more
coarsely, for many streams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from partwise.distributor.footprint import find_owned, measure_loads
from partwise.distributor.load import Load
from partwise.distributor.operators import (
    FP32_BYTES,
    BlockSizes,
    Operation,
    held_bytes,
    list_fused,
    list_unfused,
    peak_bytes,
)
from partwise.distributor.plan import Plan
from partwise.model.description import Layer, LayerKind, Model
from partwise.model.families.family import EXPERT, KV_GROUP, MLP_UNIT

MAX_BLOCKS = 3
"""Blocks that are worked out: more of the same hold no more at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """Of one pass: ``fused_bytes`` as the part's runner computes it, ``single_steps_bytes`` with
    every arithmetic step an operation of its own, in the same runner's buffers."""

    fused_bytes: int
    single_steps_bytes: int

    @property
    def saving(self) -> float:
        """The share of the buffers that fusion saves."""
        return 1 - self.fused_bytes / self.single_steps_bytes


def measure_buffers(
    plan: Plan, model: Model, part: str, *, tokens: int, past_tokens: int = 0
) -> Buffers:
    """What a pass of ``tokens`` after ``past_tokens`` of one sequence takes of the part called
    ``part``; one token asks for logits.

    Raises:
        PlanError: the plan has no such part.
    """
    stage = plan.stage_of(part)
    member = next(m for m in stage.members if m.part == part)
    layers = range(stage.start, stage.stop)
    sparsity = plan.part(part).mlp_sparsity
    loads = measure_loads(model, layers, member, find_owned(plan), sparsity)
    held = [(model.layers[i], load) for i, load in zip(layers, loads, strict=True)]
    # The runner reuses the buffers of tensors that are as large; torch gives each back.
    hold = held_bytes if plan.part(part).runner == "onnx" else peak_bytes
    blocks = [
        read_block(layer, load, model.hidden_size, (tokens, past_tokens))
        for layer, load in held
        if layer.kind is LayerKind.BLOCK
    ]
    rows = tokens * model.hidden_size
    # What was received, or looked up, and the runner's copy of it.
    given = {"received": rows, "input": rows}
    ends = _list_ends(held, rows, model.hidden_size)

    def measure(lister: Callable[[BlockSizes, int], list[Operation]]) -> int:
        listed = ends
        if blocks:
            largest = max(blocks, key=lambda s: s.query_width + s.mlp)
            listed = [*lister(largest, min(len(blocks), MAX_BLOCKS)), *ends]
        if not listed:
            return rows * FP32_BYTES
        last = listed[-1]
        # Both are there until the pass is over.
        kept = Operation(output="sent", elements=0, inputs=(last.output, *given))
        return hold([*listed, kept], given)

    return Buffers(fused_bytes=measure(list_fused), single_steps_bytes=measure(list_unfused))


def read_block(layer: Layer, load: Load, hidden: int, passed: tuple[int, int]) -> BlockSizes:
    """The sizes of a block of which a part holds ``load``, in a pass of ``passed`` new tokens and
    tokens before them."""
    num_groups = next(kind.count for kind in layer.neuron_kinds if kind.name == KV_GROUP)
    head_size = layer.kv_elements_per_token // (2 * num_groups)
    tokens, past_tokens = passed
    return BlockSizes(
        hidden=hidden,
        heads=load.query_width // head_size,
        kv_heads=load.kv_elements // (2 * head_size),
        head_size=head_size,
        mlp=load.mlp_width,
        tokens=tokens,
        past_tokens=past_tokens,
        is_gated=_is_gated(layer, hidden),
    )


def _is_gated(layer: Layer, hidden: int) -> bool:
    """Whether the MLP, or each expert, has three matrices, whatever they are called and however
    they are packed."""
    kind = next(kind for kind in layer.neuron_kinds if kind.name in (MLP_UNIT, EXPERT))
    matrices = (p for p in layer.parameters if len(p.shape) == 2)
    own = [p for p in matrices if any(a.kind == kind.name for a in p.neurons)]
    units = kind.count * own[0].neurons[0].width
    return sum(p.num_elements for p in own) == 3 * hidden * units


def _list_ends(held: Sequence[tuple[Layer, Load]], rows: int, hidden: int) -> list[Operation]:
    """What comes after the blocks: with a head, of one token alone."""
    kinds: dict[LayerKind, Any] = {layer.kind: (layer, load) for layer, load in held}
    has_blocks = LayerKind.BLOCK in kinds
    value, listed = "output" if has_blocks else "input", []
    width = rows
    if LayerKind.HEAD in kinds:
        width = hidden
        listed.append(Operation(output="asked", elements=width, inputs=(value,)))
        value = "asked"
    if LayerKind.NORM in kinds:
        listed.append(Operation(output="normed", elements=width, inputs=(value,)))
        value = "normed"
    if LayerKind.HEAD in kinds:
        layer, load = kinds[LayerKind.HEAD]
        vocabulary = layer.parameters[0].shape[0] * load.weight_elements // layer.num_elements
        listed.append(Operation(output="logits", elements=vocabulary, inputs=(value,)))
    return listed
