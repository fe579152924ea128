"""What the seed's layer takes, how many cards it needs, and how full they are."""

from __future__ import annotations

from dataclasses import replace

from experiments.layerwise.world import (
    CLAIMS,
    CONTEXT_TOKENS,
    FULL,
    HALVED,
    MB,
    NUM_DEVICES,
    NUM_LAYERS,
    PRESETS,
    SMALLER,
    STEPS,
    Step,
    describe_gated,
    describe_plain,
    join_cards,
    name_layout,
    name_plan,
    open_cluster,
    plan_grid,
    pose,
)
from experiments.page import Table
from partwise.cli.format import Cell
from partwise.distributor import greedy
from partwise.distributor.cost import predict
from partwise.distributor.footprint import Footprint, layer_footprint
from partwise.distributor.workload import kv_element_bytes
from partwise.errors import Infeasible
from partwise.model import LayerKind, Model

Rows = list[tuple[Cell, ...]]
MODELS = {"gated": describe_gated, "two matrices": describe_plain}
FP16_BYTES = 2
MAX_MEMBERS = 64


def find_block(model: Model) -> int:
    """The index of the first block."""
    return next(i for i, layer in enumerate(model.layers) if layer.kind is LayerKind.BLOCK)


def measure_step(model: Model, step: Step, *, is_training: bool) -> Footprint:
    """What a layer takes at a step.

    partwise counts checkpointing; no runner of it fuses operators, so fusion is taken at the
    seed's word: 80 % less of the buffers.
    """
    workload = step.workload(is_training=is_training)
    footprint = layer_footprint(model, find_block(model), workload)
    if step.is_fused:
        left = round(footprint.buffer_bytes * (1 - CLAIMS.buffer_reduction))
        footprint = replace(footprint, buffer_bytes=left)
    return footprint


def tabulate_footprint(name: str, *, is_training: bool) -> Table:
    """The layer of one of `MODELS` after each step, beside the claim."""
    model = MODELS[name](1)
    claims = {FULL.name: CLAIMS.layer_mb, STEPS[-1].name: CLAIMS.compressed_mb}
    rows: Rows = []
    for step in STEPS:
        found = measure_step(model, step, is_training=is_training)
        columns = [found.weight_bytes, found.kv_bytes, found.activation_bytes, found.buffer_bytes]
        if is_training:
            columns[1:2] = []
            kept = [found.saved_activation_bytes, found.gradient_bytes, found.optimizer_bytes]
            columns += kept
        rows.append(
            (step.name, *(n / MB for n in columns), found.total_bytes / MB, claims.get(step.name))
        )
    headers = ["step", "weights MB", "KV MB", "activations MB", "buffers MB"]
    if is_training:
        headers[2:3] = []
        headers += ["saved MB", "gradients MB", "optimizer MB"]
    use = "training" if is_training else "inference"
    return Table(
        name=f"footprint-{name.split(maxsplit=1)[0]}-{use}",
        title=f"One layer, {name} MLP, {use}: 1 sequence of {CONTEXT_TOKENS} tokens",
        headers=(*headers, "total MB", "claimed MB"),
        rows=rows,
    )


def count_devices(model: Model, step: Step, cache_mb: int) -> int:
    """The members among which the planner splits a layer so that all that each of them reads
    again and again stays in cache."""
    problem = pose(model, join_cards(cache_mb, MAX_MEMBERS), step.workload())
    plan = greedy.plan(replace(problem, options={"cache_fit": True}))
    block = find_block(model)
    return next(len(stage.members) for stage in plan.stages if stage.start <= block < stage.stop)


def tabulate_devices() -> Table:
    """How many cards one layer needs, and all 16."""
    rows: Rows = []
    for step in (*STEPS[:3], *SMALLER):
        row: list[Cell] = [step.name]
        for describe in MODELS.values():
            model = describe(1)
            weight_mb = measure_step(model, step, is_training=False).weight_bytes / MB
            counts = [count_devices(model, step, cache_mb) for cache_mb in PRESETS]
            row += [weight_mb, *counts]
        rows.append(tuple(row))
    columns = [
        title
        for name in MODELS
        for title in (f"{name} MB", *(f"devices of {cache_mb} MB" for cache_mb in PRESETS))
    ]
    return Table(
        name="devices",
        title=f"Devices that hold one layer in cache (1 stream of {CONTEXT_TOKENS} tokens);"
        f" times {NUM_LAYERS} for the model",
        headers=("step", *columns),
        rows=rows,
    )


def tabulate_answers() -> Table:
    """What the planner says when all layers are to be in cache, with the seed's cards and with
    as many as it asks for."""
    rows: Rows = []
    for cache_mb in PRESETS:
        for num_cards in (NUM_DEVICES, 128):
            problem = pose(describe_gated(), join_cards(cache_mb, num_cards), HALVED.workload())
            try:
                plan = greedy.plan(replace(problem, options={"cache_fit": True}))
            except Infeasible as exc:
                answer = str(exc)
            else:
                answer = f"{len(plan.parts)} cards; members by stage: {name_plan(plan)}"
            rows.append((cache_mb, num_cards, answer))
    return Table(
        name="answers",
        title=f"All of the model in cache ({HALVED.name}), strategy greedy",
        headers=("L2 MB", "cards offered", "the planner's answer"),
        rows=rows,
    )


def tabulate_kv_room() -> Table:
    """What weights leave of a device's L2 for the KV cache that every token reads too."""
    layer = describe_gated(1).layers[1]
    rows: Rows = []
    cases = [("as claimed", 1, CLAIMS.compressed_mb, 50)]
    for cache_mb in PRESETS:
        for step in (HALVED, SMALLER[-1]):
            count = count_devices(describe_gated(1), step, cache_mb)
            weight_mb = measure_step(describe_gated(1), step, is_training=False).weight_bytes / MB
            cases.append((step.name, count, weight_mb / count, cache_mb))
    for name, count, weight_mb, cache_mb in cases:
        room = (cache_mb - weight_mb) * MB
        tokens = (
            int(room * count / (layer.kv_elements_per_token * element_bytes))
            for element_bytes in (FP16_BYTES, kv_element_bytes("fp16"))
        )
        rows.append((name, cache_mb, count, weight_mb, room / MB, *tokens))
    return Table(
        name="kv-room",
        title="What the weights leave for the KV cache, of all streams together",
        headers=(
            "layer", "L2 MB", "devices a layer", "weights MB each", "left MB each",
            "tokens in fp16", "tokens in fp32",
        ),
        rows=rows,
    )  # fmt: skip


def tabulate_utilisation() -> Table:
    """How full cache and device memory are, in both layouts."""
    model = describe_gated()
    claimed = {
        (2, 8): (CLAIMS.baseline_cache_percent, CLAIMS.baseline_memory_percent),
        (16, 1): (CLAIMS.cache_percent, CLAIMS.memory_percent),
    }
    rows: Rows = []
    for step in (FULL, HALVED):
        for (num_stages, num_members), claim in claimed.items():
            workload = step.workload()
            problem = pose(model, open_cluster(50), workload)
            plan = plan_grid(problem, num_stages, num_members)
            parts = predict(plan, model, problem.cluster, workload).parts
            largest = max(parts, key=lambda part: part.working_set_bytes)
            memory_bytes = problem.cluster.host_of(largest.server).memory_bytes
            rows.append(
                (
                    step.name,
                    name_layout(num_stages, num_members),
                    largest.working_set_bytes / MB,
                    *(100 * largest.working_set_bytes / (mb * MB) for mb in PRESETS),
                    claim[0],
                    100 * largest.memory_bytes / memory_bytes,
                    claim[1],
                )
            )
    return Table(
        name="utilisation",
        title=f"What the fullest of {NUM_DEVICES} devices reads for each token, against its L2,"
        " and holds, against its 80 GiB (1 stream)",
        headers=(
            "step", "layout", "read MB", "of 50 MB %", "of 32 MB %", "claimed cache %",
            "of memory %", "claimed memory %",
        ),
        rows=rows,
    )  # fmt: skip
