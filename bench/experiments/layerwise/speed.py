"""Layer-wise against TP x PP, copies and one card: predicted by the cost model, not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from experiments.layerwise.world import (
    HALVED,
    NETWORKS,
    NUM_DEVICES,
    describe_gated,
    name_layout,
    open_cluster,
    plan_grid,
    pose,
)
from experiments.page import Table, round_figure
from partwise.cluster import Cluster
from partwise.distributor.cost import Prediction, one_machine, predict
from partwise.distributor.workload import Workload
from partwise.model import Model

STREAMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GRIDS = ((16, 1), (8, 2), (4, 4), (2, 8), (1, 16))
LAYER_WISE, BASELINE = name_layout(16, 1), name_layout(2, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one layout is predicted to do: tokens of all streams a second, milliseconds that a
    stream waits for its next token, joules a token."""

    tokens_per_s: float
    token_ms: float
    token_joules: float


Comparison = dict[int, dict[str, Speed]]
"""By streams, by layout."""

MEASURES: dict[str, tuple[str, Callable[[Speed], float]]] = {
    "throughput": ("Tokens/s of all streams", lambda speed: speed.tokens_per_s),
    "latency": ("Ms until a stream's next token", lambda speed: speed.token_ms),
    "energy": ("Joules a token, every card in use at 350 W", lambda speed: speed.token_joules),
}


def measure(prediction: Prediction, streams: int) -> Speed:
    """Of a prediction for hosts that all give their watts."""
    assert prediction.joules_per_token is not None
    return Speed(
        tokens_per_s=prediction.tokens_per_s,
        token_ms=1e3 * streams / prediction.tokens_per_s,
        token_joules=prediction.joules_per_token,
    )


def measure_grid(
    model: Model, cluster: Cluster, workload: Workload, grid: tuple[int, int]
) -> Speed:
    """Of stages x members."""
    plan = plan_grid(pose(model, cluster, workload), *grid)
    return measure(predict(plan, model, cluster, workload), workload.streams)


def measure_one(model: Model, cluster: Cluster, workload: Workload) -> Speed:
    """Of one card that holds everything."""
    prediction = one_machine(model, cluster, workload)
    assert prediction is not None, f"{model.name} is larger than a card's memory"
    return measure(prediction, workload.streams)


def measure_copies(
    model: Model, cluster: Cluster, workloads: Callable[[int], Workload], streams: int
) -> Speed:
    """Of a copy of the model on each card, the streams dealt out; cards without one are off."""
    each = -(-streams // NUM_DEVICES)
    num_cards = -(-streams // each)
    one = measure_one(model, cluster, workloads(each))
    tokens_per_s = 1e3 * streams / one.token_ms
    watts = num_cards * one.token_joules * one.tokens_per_s
    return Speed(
        tokens_per_s=tokens_per_s, token_ms=one.token_ms, token_joules=watts / tokens_per_s
    )


def compare(
    model: Model,
    cluster: Cluster,
    workloads: Callable[[int], Workload],
    streams: Sequence[int] = STREAMS,
) -> Comparison:
    """Every layout on 16 cards, for so many streams; ``workloads`` makes one of a number."""
    found: Comparison = {}
    for num_streams in streams:
        workload = workloads(num_streams)
        row = {name_layout(*grid): measure_grid(model, cluster, workload, grid) for grid in GRIDS}
        row["16 copies"] = measure_copies(model, cluster, workloads, num_streams)
        row["one card"] = measure_one(model, cluster, workload)
        found[num_streams] = row
    return found


@cache
def compare_seed(network: str) -> Comparison:
    """The seed's model as far as its steps reduce it, on its cards.

    No part of it is in cache at either size, so both presets give the same figures.
    """
    model = describe_gated()
    claimed, measured = (
        compare(model, open_cluster(cache_mb, network), halve) for cache_mb in (50, 32)
    )
    assert claimed == measured, "a part of a layout fits a cache: show both presets"
    return measured


def halve(streams: int) -> Workload:
    """So many streams over int8 layers without half of their MLP."""
    return HALVED.workload(streams=streams)


def tabulate_speed(comparisons: dict[str, Comparison]) -> list[Table]:
    """A table for each network and measure."""
    return [
        Table(
            name=f"{measure_name}-{list(NETWORKS).index(network)}",
            title=f"{what}; {network}",
            headers=("streams", *comparison[STREAMS[0]]),
            rows=[
                (streams, *(round_figure(read(speed)) for speed in row.values()))
                for streams, row in comparison.items()
            ],
        )
        for network, comparison in comparisons.items()
        for measure_name, (what, read) in MEASURES.items()
    ]


def find_ratios(comparison: Comparison) -> dict[int, float]:
    """Tokens/s of layer-wise over those of the baseline, by streams."""
    return {
        streams: row[LAYER_WISE].tokens_per_s / row[BASELINE].tokens_per_s
        for streams, row in comparison.items()
    }
