"""The cuts of a chain of stages against every way to cut it."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import numpy as np
import pytest

from partwise.distributor.cut_layers import Table, cut_layers
from partwise.distributor.pipeline import Pipeline


def random_table(rng: random.Random, num_cuts: int) -> Table:
    """Seconds that grow with the run; long ones do not fit, and a few others neither."""
    table = np.full((num_cuts, num_cuts), np.inf)
    longest = rng.randint(num_cuts // 2, num_cuts)
    for a in range(num_cuts):
        taken_s = rng.choice([0.0, 1.0])
        for b in range(a + 1, num_cuts):
            taken_s += rng.choice([0.0, 0.5, rng.random()])
            if b - a <= longest and rng.random() > 0.03:
                table[a, b] = taken_s
    return table


def shortest(tables: list[Table], pipeline: Pipeline) -> float:
    """The least cycle over all cuts."""
    num_cuts = len(tables[0])
    best_s = np.inf
    for inner in combinations(range(1, num_cuts - 1), len(tables) - 1):
        runs = list(pairwise((0, *inner, num_cuts - 1)))
        taken = [table[run] for table, run in zip(tables, runs, strict=True)]
        if not np.isfinite(taken).all():
            continue
        slowest_s = max(*taken, pipeline.link_s)
        trip_s = sum(taken) + pipeline.fixed_s
        if pipeline.is_filled:
            cycle_s = (pipeline.num_microbatches - 1) * slowest_s + trip_s
        else:
            cycle_s = max(pipeline.num_microbatches * slowest_s, trip_s)
        best_s = min(best_s, cycle_s)
    return float(best_s)


@pytest.mark.parametrize("is_filled", [False, True])
def test_no_other_cuts_have_a_shorter_cycle(is_filled: bool) -> None:
    rng = random.Random(3)
    num_none = num_waiting = 0
    for _ in range(400):
        num_cuts, num_stages = rng.randint(2, 9), rng.randint(1, 5)
        tables = [random_table(rng, num_cuts) for _ in range(num_stages)]
        pipeline = Pipeline(
            num_microbatches=rng.choice([1, 2, 3, 8]),
            fixed_s=rng.choice([0.0, 1.5]),
            link_s=rng.choice([0.0, 0.7]),
            is_filled=is_filled,
        )
        best_s, found = shortest(tables, pipeline), cut_layers(tables, pipeline)
        if found is None:
            assert best_s == np.inf
            num_none += 1
            continue
        assert found.cycle_s == pytest.approx(best_s)
        runs = list(pairwise(found.bounds))
        assert (found.bounds[0], found.bounds[-1]) == (0, num_cuts - 1)
        assert len(runs) == num_stages
        taken = [float(table[run]) for table, run in zip(tables, runs, strict=True)]
        assert found.cycle_s == pytest.approx(pipeline.cycle_s(max(taken), sum(taken)))
        num_waiting += found.cycle_s > sum(taken) + pipeline.fixed_s + 1e-9
    assert num_none > 50
    assert num_waiting > 20


def test_more_stages_than_layers_cannot_be_cut() -> None:
    table = np.array([[np.inf, 1.0], [np.inf, np.inf]])
    assert cut_layers([table, table], Pipeline(num_microbatches=1)) is None
