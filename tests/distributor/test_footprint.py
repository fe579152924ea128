"""What layers and parts take, by arithmetic written down apart and by what torch keeps."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from partwise.distributor import measure_holding
from partwise.distributor.footprint import layer_footprint, part_footprint
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Link, Member, ModelIdentity, NeuronShare, Part, Plan, Stage
from partwise.distributor.workload import Workload
from partwise.errors import PlanError
from partwise.model import Model

# The model of conftest: hidden 16, 4 KV groups of 2 query heads of 2, 12 MLP units, biases.
BLOCK = 3 * 16 * 16 - 2 * 8 * 16 + 16 * 16 + (16 + 8 + 8 + 16) + 3 * 12 * 16 + 2 * 16
TABLE = 30 * 16


def make_plan(model: Model, stages: tuple[Stage, ...]) -> Plan:
    parts = [member.part for stage in stages for member in stage.members]
    return Plan(
        strategy="test",
        model=ModelIdentity(
            name=model.name,
            architecture=model.architecture,
            fingerprint=model.fingerprint,
            num_layers=len(model.layers),
        ),
        stages=stages,
        parts=tuple(Part(name=part, server=part) for part in parts),
        links=tuple(
            Link(source=a.part, target=b.part)
            for before, after in pairwise(stages)
            for a in before.members
            for b in after.members
        ),
        placements=place_parameters(model, stages),
    )


def share(kind: str, start: int, stop: int) -> NeuronShare:
    return NeuronShare(kind=kind, ranges=((start, stop),))


def test_weights_take_their_elements_at_the_precision(model: Model) -> None:
    for precision, element_bytes in {"fp32": 4, "fp16": 2, "int8": 1, "int4": 18 / 32}.items():
        workload = Workload(precision=precision)
        assert layer_footprint(model, 1, workload).weight_bytes == round(BLOCK * element_bytes)
        assert layer_footprint(model, 0, workload).weight_bytes == round(TABLE * element_bytes)


def test_the_cache_is_context_times_sequences_in_fp32(model: Model) -> None:
    workload = Workload(context_tokens=100, sequences=3, precision="int8")
    assert layer_footprint(model, 1, workload).kv_bytes == 2 * 4 * 2 * 4 * 100 * 3
    assert layer_footprint(model, 0, workload).kv_bytes == 0
    assert layer_footprint(model, 1, replace(workload, streams=5)).kv_bytes == 16 * 4 * 100 * 5
    assert layer_footprint(model, 1, replace(workload, streams=2)).kv_bytes == 16 * 4 * 100 * 3


def test_buffers_grow_with_the_chunk_and_its_mask(model: Model) -> None:
    block = layer_footprint(model, 1, Workload(context_tokens=100, prefill_tokens=10))
    # Attention is wider than the MLP here: 3 x 16 of queries, 2 x 16 of keys and values.
    assert block.buffer_bytes == 10 * max(3 * 12, 3 * 16 + 2 * 16) * 4 + 10 * 100 * 5
    assert block.activation_bytes == 4 * 10 * 16 * 4
    head = layer_footprint(model, 6, Workload(streams=7, prefill_tokens=3))
    assert head.buffer_bytes == 7 * 30 * 4
    assert head.activation_bytes == 4 * 7 * 16 * 4


def test_training_keeps_gradients_moments_and_activations(model: Model) -> None:
    workload = Workload(context_tokens=10, sequences=2, is_training=True)
    block = layer_footprint(model, 1, workload)
    assert block.kv_bytes == 0
    assert block.gradient_bytes == 4 * BLOCK
    assert block.optimizer_bytes == 8 * BLOCK
    assert block.saved_activation_bytes == 20 * 4 * (6 * 16 + 2 * 16 + 16 + 4 * 12)
    less = layer_footprint(model, 1, replace(workload, has_checkpointing=True))
    assert less.saved_activation_bytes == 20 * 4 * 16
    # What it did not keep, it computes again, one layer at a time.
    assert less.total_bytes == block.total_bytes


def test_checkpointing_pays_over_several_layers(model: Model) -> None:
    plan = make_plan(model, (Stage(start=0, stop=7, members=(Member(part="a"),)),))
    workload = Workload(context_tokens=10, sequences=2, is_training=True)
    kept = part_footprint(plan, model, "a", workload)
    checked = part_footprint(plan, model, "a", replace(workload, has_checkpointing=True))
    assert checked.saved_activation_bytes < kept.saved_activation_bytes / 2
    assert checked.total_bytes < kept.total_bytes


@pytest.mark.parametrize(("streams", "kept"), [(1, (1, 1, 1)), (2, (2, 2, 1)), (8, (3, 2, 1))])
def test_a_stage_keeps_what_the_microbatches_in_flight_have_saved(
    streams: int, kept: tuple[int, ...], model: Model
) -> None:
    bounds = ((0, 2), (2, 4), (4, 7))
    stages = tuple(
        Stage(start=start, stop=stop, members=(Member(part=part),))
        for part, (start, stop) in zip("abc", bounds, strict=True)
    )
    plan = make_plan(model, stages)
    for has_checkpointing in (False, True):
        workload = Workload(
            context_tokens=10,
            sequences=2,
            is_training=True,
            streams=streams,
            has_checkpointing=has_checkpointing,
        )
        for part, (start, stop), num_kept in zip("abc", bounds, kept, strict=True):
            layers = [layer_footprint(model, i, workload) for i in range(start, stop)]
            saved = sum(layer.saved_activation_bytes for layer in layers)
            found = part_footprint(plan, model, part, workload)
            assert found.saved_activation_bytes == num_kept * saved


def test_inference_keeps_nothing_of_training(model: Model) -> None:
    block = layer_footprint(model, 1, Workload())
    assert block.gradient_bytes == block.optimizer_bytes == block.saved_activation_bytes == 0


def test_a_part_holds_tied_weights_once(model: Model) -> None:
    plan = make_plan(model, (Stage(start=0, stop=7, members=(Member(part="a"),)),))
    workload = Workload(is_training=True)
    whole = part_footprint(plan, model, "a", workload)
    assert whole.weight_bytes == 4 * model.num_parameters == 4 * (TABLE + 4 * BLOCK + 16)
    assert whole.gradient_bytes == whole.weight_bytes
    assert whole.optimizer_bytes == 2 * whole.weight_bytes


def test_a_table_that_onnx_maps_takes_nothing_and_its_tied_head_all(model: Model) -> None:
    def count(*bounds: int) -> list[int]:
        names = [f"p{i}" for i in range(len(bounds) - 1)]
        stages = tuple(
            Stage(start=start, stop=stop, members=(Member(part=name),))
            for name, (start, stop) in zip(names, pairwise(bounds), strict=True)
        )
        plan = make_plan(model, stages)
        parts = tuple(msgspec.structs.replace(part, runner="onnx") for part in plan.parts)
        plan = msgspec.structs.replace(plan, parts=parts)
        return [part_footprint(plan, model, name, Workload()).weight_bytes // 4 for name in names]

    assert count(0, 7) == [4 * BLOCK + 16 + TABLE]
    assert count(0, 3, 7) == [2 * BLOCK, 2 * BLOCK + 16 + TABLE]


def test_a_part_needs_its_largest_buffer_once(model: Model) -> None:
    plan = make_plan(model, (Stage(start=0, stop=7, members=(Member(part="a"),)),))
    workload = Workload()
    layers = [layer_footprint(model, i, workload) for i in range(7)]
    whole = part_footprint(plan, model, "a", workload)
    assert whole.reused_bytes == max(layer.reused_bytes for layer in layers)
    assert whole.kv_bytes == sum(layer.kv_bytes for layer in layers)


@pytest.mark.parametrize("seed", range(20))
def test_members_hold_what_the_plan_gives_them(
    seed: int, make_synthetic: Callable[[random.Random], Any]
) -> None:
    rng = random.Random(seed)
    model = make_synthetic(rng).model
    cut = rng.randint(1, len(model.layers) - 1)
    counts = {kind.name: kind.count for layer in model.layers[cut:] for kind in layer.neuron_kinds}
    bounds = {}
    for kind, count in counts.items():
        at = rng.randint(0, count)
        bounds[kind] = {"b": (0, at), "c": (at, count)}
    members = tuple(
        Member(
            part=part,
            neurons=tuple(
                NeuronShare(kind=kind, ranges=ranges(*bounds[kind][part]))
                for kind in counts
            ),
        )
        for part in ("b", "c")
    )  # fmt: skip
    stages = (
        Stage(start=0, stop=cut, members=(Member(part="a"),)),
        Stage(start=cut, stop=len(model.layers), members=members),
    )
    plan, workload = make_plan(model, stages), Workload(context_tokens=10)
    for part in ("a", "b", "c"):
        holding = measure_holding(plan, model, part)
        footprint = part_footprint(plan, model, part, workload)
        assert footprint.weight_bytes == holding.weight_bytes
        assert footprint.kv_bytes == holding.kv_bytes_per_token * 10


def ranges(start: int, stop: int) -> tuple[tuple[int, int], ...]:
    return ((start, stop),) if start < stop else ()


def test_a_workload_refuses_what_means_nothing() -> None:
    with pytest.raises(PlanError, match="streams is 0, it must be at least 1"):
        Workload(streams=0)
    with pytest.raises(PlanError, match="context_tokens is -5"):
        Workload(context_tokens=-5)
    with pytest.raises(PlanError, match="'fp64' is not known: give one of fp32"):
        Workload(precision="fp64")
    with pytest.raises(PlanError, match="mlp_sparsity is 0.95, it must be 0 to 0.9: remove fewer"):
        Workload(mlp_sparsity=0.95)


def test_what_autograd_keeps_of_a_block_is_predicted() -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

    from partwise.model.description import LayerKind
    from partwise.model.families import find_family
    from partwise.model.safetensors_file import TensorEntry

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_hidden_layers=1,
        vocab_size=32,
    )
    config._attn_implementation = "sdpa"
    block = LlamaDecoderLayer(config, 0)
    hidden = torch.randn(2, 30, 64, requires_grad=True)
    rotary = LlamaRotaryEmbedding(config)(hidden, torch.arange(30)[None])
    weights = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(hidden, position_embeddings=rotary)
    measured = sum(storage.nbytes() for storage in kept.values())

    state = {f"model.layers.0.{name}": p for name, p in block.state_dict().items()}
    shapes = {name: tuple(p.shape) for name, p in state.items()}
    shapes |= {"model.embed_tokens.weight": (32, 64), "lm_head.weight": (32, 64)}
    shapes |= {"model.norm.weight": (64,)}
    entries = {
        name: TensorEntry(
            name=name, dtype="F32", shape=shape, file=Path("x"), offset=0, num_bytes=0
        )
        for name, shape in shapes.items()
    }
    values = config.to_dict() | {"tie_word_embeddings": False}
    model = find_family(values).describe(values, entries, "tiny")
    assert model.layers[1].kind is LayerKind.BLOCK
    workload = Workload(context_tokens=30, sequences=2, is_training=True)
    predicted = layer_footprint(model, 1, workload).saved_activation_bytes
    assert predicted == pytest.approx(measured, rel=0.1)
