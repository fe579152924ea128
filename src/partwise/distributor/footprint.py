"""What a layer or a part takes of a server's memory: weights, KV caches, activations, buffers,
and what training keeps. Of the process itself (interpreter, libraries) it counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from partwise.distributor.holding import count_all_neurons, count_held
from partwise.distributor.load import Load, measure_layer, measure_share
from partwise.distributor.plan import Member, Plan
from partwise.distributor.workload import Workload
from partwise.model.description import Layer, LayerKind, Model, Parameter

ACTIVATION_BYTES = 4
"""Also in bf16, where they take half: a bound from above, for norms widen them to fp32."""
MASK_BYTES = 5
"""Of attention's scores torch holds only the mask, once as bool and once as fp32: its CPU
kernel computes scores in tiles (measured with torch's memory profiler)."""
NUM_HIDDEN = 4
"""A block's input, residual sum, norm and output live at once, each as wide as the hidden."""
NUM_MLP = 3
"""So do a gated MLP's activated gate, its up projection and their product."""
NUM_SAVED_HIDDEN, NUM_SAVED_QUERY, NUM_SAVED_MLP = 6, 2, 4
"""What autograd keeps of a llama block, besides K and V: of each norm its input, the normed
and the scaled one; queries and attention's output; gate, activated gate, up and product."""
NUM_LOGITS_TRAINED = 3
"""Logits, their log-softmax and their gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory by what it holds, in bytes.

    Weights, KV caches and what training keeps add up over layers; ``activation_bytes`` and
    ``buffer_bytes`` are reused from layer to layer, so a part needs its largest.
    """

    weight_bytes: int = 0
    kv_bytes: int = 0
    activation_bytes: int = 0
    buffer_bytes: int = 0
    gradient_bytes: int = 0
    optimizer_bytes: int = 0
    saved_activation_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.kept_bytes + self.reused_bytes

    @property
    def kept_bytes(self) -> int:
        """What adds up over the layers of a part."""
        training = self.gradient_bytes + self.optimizer_bytes + self.saved_activation_bytes
        return self.weight_bytes + self.kv_bytes + training

    @property
    def reused_bytes(self) -> int:
        """What the layers of a part take in turns."""
        return self.activation_bytes + self.buffer_bytes


def layer_footprint(model: Model, index: int, workload: Workload) -> Footprint:
    """What layer ``index`` of ``model`` takes of a server that holds it whole, with one
    microbatch in flight."""
    layer = model.layers[index]
    load = measure_layer(layer, workload.mlp_sparsity)
    return measure_footprint(layer, load, model.hidden_size, workload)


def measure_footprint(layer: Layer, load: Load, hidden_size: int, workload: Workload) -> Footprint:
    """What ``layer`` takes of a part on which it is ``load``, with one microbatch in flight."""
    weights = load.weight_elements
    tokens = count_tokens(workload)
    saved = _saved_bytes(layer, load, hidden_size, tokens) if workload.is_training else 0
    kept = tokens * hidden_size * ACTIVATION_BYTES if workload.has_checkpointing else saved
    kv_tokens = workload.context_tokens * workload.num_caches
    kv_bytes = load.kv_elements * workload.kv_element_bytes * kv_tokens
    return Footprint(
        weight_bytes=round(weights * workload.element_bytes),
        kv_bytes=0 if workload.is_training else kv_bytes,
        activation_bytes=NUM_HIDDEN * tokens * hidden_size * ACTIVATION_BYTES,
        # A checkpointed layer is computed again: then it keeps for a while what it saved not.
        buffer_bytes=_buffer_bytes(layer, load, workload) + saved - min(kept, saved),
        gradient_bytes=4 * weights if workload.is_training else 0,
        # AdamW keeps two moments of each weight in fp32.
        optimizer_bytes=8 * weights if workload.is_training else 0,
        saved_activation_bytes=min(kept, saved),
    )


def part_footprint(plan: Plan, model: Model, part: str, workload: Workload) -> Footprint:
    """What the part called ``part`` takes under a verified plan, reduced as it says.

    Where ONNX Runtime computes it, the embedding's table takes nothing: it is a mapped file, of
    which the system may drop what is not looked up. The strategies' searches, which choose no
    runner, count it.

    In training its stage keeps the saved activations of several microbatches at once, as many as
    the schedule 1F1B has in flight there (`Workload.count_in_flight`).

    Raises:
        PlanError: the plan has no such part.
    """
    own = workload.reduced_as(plan.part(part))
    stage = plan.stage_of(part)
    member = next(m for m in stage.members if m.part == part)
    is_owned = find_owned(plan) if member.neurons else {}
    prints: dict[int, Footprint] = {}
    layers = range(stage.start, stage.stop)
    loads = measure_loads(model, layers, member, is_owned, own.mlp_sparsity)
    for i, load in zip(layers, loads, strict=True):
        # Equal layers have one load, the same object: what follows from it is worked out once.
        if id(load) not in prints:
            prints[id(load)] = measure_footprint(model.layers[i], load, model.hidden_size, own)
    found = [prints[id(load)] for load in loads]
    start = stage.start
    if plan.part(part).runner == "onnx" and model.layers[start].kind is LayerKind.EMBEDDING:
        start, found[0] = start + 1, replace(found[0], weight_bytes=0)
    twice = count_tied_elements(model, start, stage.stop, member, is_owned)
    num_in_flight = own.count_in_flight(plan.stages.index(stage), len(plan.stages))
    return sum_footprints(found, twice, own, num_in_flight)


def sum_footprints(
    prints: list[Footprint], twice: int, workload: Workload, num_in_flight: int
) -> Footprint:
    """What layers take together, ``twice`` elements of which are tied to others of them, with
    what ``num_in_flight`` microbatches have saved."""
    largest = max(prints, key=lambda f: f.reused_bytes, default=Footprint())
    return Footprint(
        weight_bytes=sum(f.weight_bytes for f in prints) - round(twice * workload.element_bytes),
        kv_bytes=sum(f.kv_bytes for f in prints),
        activation_bytes=largest.activation_bytes,
        buffer_bytes=largest.buffer_bytes,
        gradient_bytes=sum(f.gradient_bytes for f in prints) - 4 * twice * workload.is_training,
        optimizer_bytes=sum(f.optimizer_bytes for f in prints) - 8 * twice * workload.is_training,
        saved_activation_bytes=num_in_flight * sum(f.saved_activation_bytes for f in prints),
    )


def count_tokens(workload: Workload) -> int:
    """Tokens of the largest pass: a prompt's chunk beside the streams, or a microbatch."""
    if workload.is_training:
        return workload.sequences * workload.context_tokens
    return max(workload.prefill_tokens, workload.streams)


def find_owned(plan: Plan) -> dict[str, bool]:
    """For each parameter that is no alias, whether members own it by neurons."""
    return {p.parameter: p.rule == "owned" for p in plan.placements}


def measure_loads(
    model: Model,
    layers: range,
    member: Member,
    is_owned: Mapping[str, bool],
    mlp_sparsity: float = 0.0,
) -> list[Load]:
    """What each of ``layers`` asks of one member of their stage; layers that are alike and split
    alike have the same object."""
    measured: dict[tuple[int, tuple[tuple[str, int], ...]], Load] = {}
    loads = []
    for i in layers:
        counts = count_all_neurons(member, i)
        key = model.alike[i], tuple(counts.items())
        if key not in measured:
            layer = model.layers[i]
            held = sum(_count_member(p, counts, is_owned, mlp_sparsity) for p in layer.parameters)
            measured[key] = measure_share(layer, held, counts, mlp_sparsity)
        loads.append(measured[key])
    return loads


def count_tied_elements(
    model: Model, start: int, stop: int, member: Member, is_owned: Mapping[str, bool]
) -> int:
    """Elements of aliases among layers ``start:stop`` whose bytes another of them holds."""
    seen: set[str] = set()
    twice = 0
    for i in range(start, stop):
        for parameter in model.layers[i].parameters:
            name = parameter.alias_of or parameter.name
            if name in seen:
                twice += _count_member(parameter, count_all_neurons(member, i), is_owned)
            seen.add(name)
    return twice


def _count_member(
    parameter: Parameter,
    counts: Mapping[str, int],
    is_owned: Mapping[str, bool],
    mlp_sparsity: float = 0.0,
) -> int:
    """Elements that a member with ``counts`` neurons holds; a replicated one is held whole."""
    is_split = is_owned.get(parameter.alias_of or parameter.name, True)
    return count_held(parameter, counts if is_split else {}, mlp_sparsity)


def _buffer_bytes(layer: Layer, load: Load, workload: Workload) -> int:
    tokens = count_tokens(workload)
    match layer.kind:
        case LayerKind.BLOCK:
            attention = 3 * load.query_width + 2 * load.kv_elements
            widest = max(NUM_MLP * load.mlp_width, attention)
            mask = min(tokens, workload.context_tokens) * workload.context_tokens * MASK_BYTES
            return tokens * widest * ACTIVATION_BYTES + (0 if workload.is_training else mask)
        case LayerKind.HEAD:
            copies = NUM_LOGITS_TRAINED if workload.is_training else 1
            rows = tokens if workload.is_training else workload.streams
            return copies * rows * _num_logits(layer, load) * ACTIVATION_BYTES
        case _:
            return 0


def _num_logits(layer: Layer, load: Load) -> int:
    vocabulary = layer.parameters[0].shape[0]
    return vocabulary * load.weight_elements // layer.num_elements


def _saved_bytes(layer: Layer, load: Load, hidden_size: int, tokens: int) -> int:
    """What autograd keeps of a layer for its backward pass."""
    width = hidden_size
    if layer.kind is LayerKind.BLOCK:
        width = NUM_SAVED_HIDDEN * hidden_size + NUM_SAVED_QUERY * load.query_width
        width += load.kv_elements + NUM_SAVED_MLP * load.mlp_width
    return tokens * width * ACTIVATION_BYTES
