"""The strategies by name; each is a file with NAME, HELP and ``plan(problem)``."""

from __future__ import annotations

from partwise.distributor import (
    balanced,
    by_compute,
    by_count,
    by_ids,
    by_layers,
    by_percentage,
    by_type,
    connectivity,
    greedy,
)
from partwise.distributor.problem import Strategy

STRATEGIES: dict[str, Strategy] = {
    greedy.NAME: greedy,
    balanced.NAME: balanced,
    by_count.NAME: by_count,
    by_percentage.NAME: by_percentage,
    by_ids.NAME: by_ids,
    by_layers.NAME: by_layers,
    by_type.NAME: by_type,
    by_compute.NAME: by_compute,
    connectivity.NAME: connectivity,
}
"""In the order in which help lists them: by layers, then by neurons."""
