"""Where a chain of stages is best cut, from what each takes for each run of layers.

Exact: the time of a token in the pipeline is the larger of its trip through all stages and of
what the slowest makes it wait. It knows no servers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.pipeline import Pipeline

Table = NDArray[np.float64]
"""Seconds of one stage by first and last cut (cuts, cuts); infinite where it cannot be."""
MAX_STEPS = 256
"""Limits of the slowest stage that are tried in training, where bisection does not find the best;
a few suffice but for tables made to need more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """Stage i is between the cuts ``bounds[i]`` and ``bounds[i + 1]`` (by index)."""

    bounds: tuple[int, ...]
    slowest_s: float
    stages_s: float
    cycle_s: float


def cut_layers(tables: Sequence[Table], pipeline: Pipeline) -> Cutting | None:
    """The cuts of the shortest cycle, every stage with layers; None where there are none."""
    shortest = _cut_under(tables, np.inf, pipeline)
    if shortest is None or pipeline.num_microbatches == 1 or len(tables) == 1:
        return shortest
    search = _walk_down if pipeline.is_filled else _bisect
    return search(tables, pipeline, shortest)


def _bisect(tables: Sequence[Table], pipeline: Pipeline, best: Cutting) -> Cutting:
    """With a higher limit for the slowest stage the trip gets shorter, the wait longer: the best
    limit is where they meet."""
    limits = np.unique(np.concatenate([table[np.isfinite(table)] for table in tables]))
    low, high = 0, len(limits)
    while low < high:
        middle = (low + high) // 2
        limit_s = float(limits[middle])
        found = _cut_under(tables, limit_s, pipeline)
        if found is None:
            low = middle + 1
            continue
        best = min(best, found, key=lambda cutting: cutting.cycle_s)
        # The trip at this limit outlasts the wait: a higher limit may shorten it.
        if found.cycle_s > pipeline.num_microbatches * max(limit_s, pipeline.link_s):
            low = middle + 1
        else:
            high = middle
    return best


def _walk_down(tables: Sequence[Table], pipeline: Pipeline, best: Cutting) -> Cutting:
    """Ever lower limits for the slowest stage, each just below what the one before led to, until
    the trip that they take is too long for any wait."""
    least_s = max(float(table.min()) for table in tables)
    limit_s = best.slowest_s
    for _ in range(MAX_STEPS):
        found = _cut_under(tables, math.nextafter(limit_s, 0.0), pipeline)
        if found is None or pipeline.cycle_s(least_s, found.stages_s) >= best.cycle_s:
            break
        best = min(best, found, key=lambda cutting: cutting.cycle_s)
        limit_s = found.slowest_s
    return best


def _cut_under(tables: Sequence[Table], limit_s: float, pipeline: Pipeline) -> Cutting | None:
    """The cuts with the least sum of stages that take up to ``limit_s`` each."""
    num_cuts = len(tables[0])
    reached = np.full(num_cuts, np.inf)
    reached[0] = 0.0
    ways = []
    for table in tables:
        sums = reached[:, None] + (
            table if limit_s == np.inf else np.where(table <= limit_s, table, np.inf)
        )
        before = sums.argmin(axis=0)
        reached = sums[before, np.arange(num_cuts)]
        ways.append(before)
    if not np.isfinite(reached[-1]):
        return None
    bounds = [num_cuts - 1]
    for before in reversed(ways):
        bounds.append(int(before[bounds[-1]]))
    bounds.reverse()
    taken = [float(t[a, b]) for t, a, b in zip(tables, bounds, bounds[1:], strict=False)]
    return Cutting(
        bounds=tuple(bounds),
        slowest_s=max(taken),
        stages_s=sum(taken),
        cycle_s=pipeline.cycle_s(max(taken), sum(taken)),
    )
