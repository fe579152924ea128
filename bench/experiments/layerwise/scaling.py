"""Whether throughput grows with the number of cards."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from experiments.layerwise.speed import halve
from experiments.layerwise.world import (
    DEEP_LAYERS,
    NUM_LAYERS,
    SLOW_LINKS,
    describe_gated,
    join_cards,
    pose,
)
from experiments.page import Table, round_figure
from partwise.cli.format import Cell
from partwise.distributor import balanced
from partwise.distributor.cost import predict

NUM_CARDS = (1, 2, 4, 8, 16, 32, 64)
STREAMS_A_CARD = 8
FIXED_STREAMS = 64
LOADS: dict[str, Callable[[int], int]] = {
    f"{STREAMS_A_CARD} streams a card": lambda num_cards: STREAMS_A_CARD * num_cards,
    f"{FIXED_STREAMS} streams": lambda num_cards: FIXED_STREAMS,
}


def measure_layer_wise(num_layers: int, num_cards: int, streams: int) -> tuple[float, int]:
    """Tokens/s of the best cut by layers, and the cards that it uses."""
    model, cluster = describe_gated(num_layers), join_cards(32, num_cards)
    workload = halve(streams)
    plan = balanced.plan(pose(model, cluster, workload))
    return predict(plan, model, cluster, workload).tokens_per_s, len(plan.parts)


@cache
def find_scaling(num_layers: int, load: Callable[[int], int]) -> dict[int, tuple[float, int]]:
    """`measure_layer_wise` by the number of cards."""
    return {n: measure_layer_wise(num_layers, n, load(n)) for n in NUM_CARDS}


def tabulate_scaling() -> Table:
    """Tokens/s of layer-wise, and its share of as many times one card."""
    found = {
        (num_layers, name): find_scaling(num_layers, load)
        for num_layers in (NUM_LAYERS, DEEP_LAYERS)
        for name, load in LOADS.items()
    }
    rows: list[tuple[Cell, ...]] = []
    for num_cards in NUM_CARDS:
        row: list[Cell] = [num_cards]
        for scaling in found.values():
            speed, num_used = scaling[num_cards]
            used = f" on {num_used}" if num_used < num_cards else ""
            percent = 100 * speed / (num_cards * scaling[1][0])
            row += [round_figure(speed) + used, round_figure(percent)]
        rows.append(tuple(row))
    columns = [
        title
        for num_layers, name in found
        for title in (f"{num_layers} layers, {name}", "% of linear")
    ]
    return Table(
        name="scaling",
        title=f"Tokens/s by layers over more cards, the best cut (strategy balanced), {SLOW_LINKS}",
        headers=("cards", *columns),
        rows=rows,
    )
