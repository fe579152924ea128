"""Where reading weights from L2 pays, and where the links that it asks for cost more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from experiments.layerwise.speed import (
    BASELINE,
    GRIDS,
    LAYER_WISE,
    Comparison,
    compare,
    find_ratios,
    halve,
    measure_grid,
)
from experiments.layerwise.world import (
    MB,
    NETWORKS,
    NUM_DEVICES,
    NUM_LAYERS,
    PRESETS,
    describe_claimed,
    describe_gated,
    join_cards,
    open_cluster,
    plan_grid,
    pose,
)
from experiments.page import Table, round_figure
from partwise.cli.format import Cell
from partwise.distributor.cost import one_machine, predict
from partwise.distributor.workload import Workload
from partwise.model import Model

CLAIMED_CONTEXT_TOKENS = 16
"""Beside 49.5 MB of weights 50 MB hold four streams of this, and not a fifth."""
CLAIMED_STREAMS = (1, 2, 4, 8, 16, 64)
RESIDENT = {50: (16, 4), 32: (16, 8)}
"""Stages x members that hold every layer in so many MB of L2. `memory.py` finds that 6 members
suffice in 32 MB; 8 fill a box."""


def shrink(streams: int) -> Workload:
    """So many streams over the layers of the claimed size."""
    return Workload(streams=streams, context_tokens=CLAIMED_CONTEXT_TOKENS, precision="int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one layer adds to a token's way, on the cards that hold it, in microseconds."""

    working_set_mb: float
    compute_us: float
    exchange_us: float
    hop_us: float

    @property
    def total_us(self) -> float:
        return self.compute_us + self.exchange_us + self.hop_us


def measure_layer(
    model: Model, workload: Workload, cache_mb: int, num_members: int, network: str
) -> Layer:
    """Of a layer in the middle, with a stage to itself of so many members."""
    cluster = join_cards(cache_mb, NUM_LAYERS * num_members, network)
    plan = plan_grid(pose(model, cluster, workload), NUM_LAYERS, num_members)
    part = predict(plan, model, cluster, workload).parts[NUM_LAYERS // 2 * num_members]
    return Layer(
        working_set_mb=part.working_set_bytes / MB,
        compute_us=1e6 * part.compute_s,
        exchange_us=1e6 * part.exchange_s,
        hop_us=1e6 * part.hop_s,
    )


def measure_on_one(model: Model, workload: Workload) -> Layer:
    """Of a layer on a card that holds all: a sixteenth of its pass."""
    prediction = one_machine(model, open_cluster(32), workload)
    assert prediction is not None, f"{model.name} is larger than a card's memory"
    part = prediction.parts[0]
    return Layer(
        working_set_mb=part.working_set_bytes / MB / NUM_LAYERS,
        compute_us=1e6 * part.compute_s / NUM_LAYERS,
        exchange_us=0.0,
        hop_us=0.0,
    )


def tabulate_layers() -> Table:
    """A layer on one card among all others, on one of its own, and on as many as cache it."""
    rows: list[tuple[Cell, ...]] = []
    cases: Sequence[tuple[str, Model, Workload, dict[int, int]]] = (
        ("as claimed", describe_claimed(), shrink(1), {50: 1, 32: 1}),
        ("int8, half of the MLP", describe_gated(), halve(1), {50: 1, 32: 1}),
        (
            "int8, half of the MLP",
            describe_gated(),
            halve(1),
            {mb: members for mb, (_, members) in RESIDENT.items()},
        ),
    )
    for i, (name, model, workload, members) in enumerate(cases):
        if i < 2:
            rows.append(_row(name, "one card for all", None, measure_on_one(model, workload)))
        for cache_mb, num_members in members.items():
            noun = "card" if num_members == 1 else "cards"
            for network in list(NETWORKS)[: 1 if num_members == 1 else 2]:
                found = measure_layer(model, workload, cache_mb, num_members, network)
                where = f"{num_members} {noun} a layer, {network}"
                rows.append(_row(name, where, cache_mb, found))
    return Table(
        name="layer-time",
        title="What one layer adds to a token's way, 1 stream",
        headers=(
            "layer", "on", "L2 MB", "read MB each", "computing us", "exchange us", "hop us", "us",
        ),
        rows=rows,
    )  # fmt: skip


def _row(name: str, where: str, cache_mb: int | None, found: Layer) -> tuple[Cell, ...]:
    figures = (found.working_set_mb, found.compute_us, found.exchange_us, found.hop_us)
    return name, where, cache_mb, *map(round_figure, (*figures, found.total_us))


@cache
def compare_claimed(cache_mb: int, network: str) -> Comparison:
    """Every layout for a model whose layers have the size that the seed claims."""
    cluster = open_cluster(cache_mb, network)
    return compare(describe_claimed(), cluster, shrink, CLAIMED_STREAMS)


def tabulate_claimed() -> Table:
    """Layer-wise and the baseline if 49.5 MB a layer were true."""
    rows: list[tuple[Cell, ...]] = []
    for cache_mb in PRESETS:
        for network in NETWORKS:
            found = compare_claimed(cache_mb, network)
            ratios = find_ratios(found)
            for streams, row in found.items():
                speeds = (row[name].tokens_per_s for name in (LAYER_WISE, BASELINE, "one card"))
                rows.append(
                    (cache_mb, network, streams, *map(round_figure, (*speeds, ratios[streams])))
                )
    return Table(
        name="as-claimed",
        title=f"Tokens/s if a layer had {describe_claimed().layers[1].num_elements / MB:.1f} MB:"
        f" half as wide a model, int8, {CLAIMED_CONTEXT_TOKENS} tokens of context",
        headers=(
            "L2 MB", "network", "streams", LAYER_WISE, BASELINE, "one card",
            "layer-wise / baseline",
        ),
        rows=rows,
    )  # fmt: skip


def tabulate_resident(streams: Sequence[int] = (1, 4, 16, 64, 512)) -> Table:
    """Cards enough for all weights in L2, four to eight times 16, against the best grid on 16."""
    model = describe_gated()
    rows: list[tuple[Cell, ...]] = []
    for network in NETWORKS:
        for num_streams in streams:
            workload = halve(num_streams)
            cluster = open_cluster(32, network)
            best = max(measure_grid(model, cluster, workload, grid).tokens_per_s for grid in GRIDS)
            row: list[Cell] = [network, num_streams, round_figure(best)]
            for cache_mb, grid in RESIDENT.items():
                large = join_cards(cache_mb, grid[0] * grid[1], network)
                speed = measure_grid(model, large, workload, grid).tokens_per_s
                row += [round_figure(speed), round_figure(speed / best)]
            rows.append(tuple(row))
    columns = [
        title
        for cache_mb, (num_stages, num_members) in RESIDENT.items()
        for title in (f"{num_stages * num_members} cards, {cache_mb} MB", "of the best on 16")
    ]
    return Table(
        name="resident",
        title="Tokens/s of cards enough for all weights in L2, against the best grid on"
        f" {NUM_DEVICES} cards (from memory)",
        headers=("network", "streams", "best on 16 cards", *columns),
        rows=rows,
    )
