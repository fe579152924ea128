"""The strategies by name; each is a file with NAME, HELP and ``plan(problem)``.

`codecs.py` gives the links of their plans a codec each.
"""

from __future__ import annotations

from partwise.distributor import (
    auto,
    balanced,
    by_compute,
    by_count,
    by_ids,
    by_layers,
    by_percentage,
    by_type,
    connectivity,
    greedy,
    latency,
    throughput,
)
from partwise.distributor.codecs import Coded
from partwise.distributor.problem import Strategy

_STRATEGIES: dict[str, Strategy] = {
    greedy.NAME: greedy,
    balanced.NAME: balanced,
    latency.NAME: latency,
    throughput.NAME: throughput,
    by_count.NAME: by_count,
    by_percentage.NAME: by_percentage,
    by_ids.NAME: by_ids,
    by_layers.NAME: by_layers,
    by_type.NAME: by_type,
    by_compute.NAME: by_compute,
    connectivity.NAME: connectivity,
    auto.NAME: auto,
}
"""In the order in which help lists them: by layers, both ways, by neurons, the best of all."""

STRATEGIES: dict[str, Strategy] = {n: Coded(strategy) for n, strategy in _STRATEGIES.items()}
"""Each with the codecs of its plan's links."""
