"""The exact least slowest run: against every cut, against an exact solver, and its speed."""

from __future__ import annotations

import bisect
import math
import random
import time
from itertools import accumulate, pairwise

import pytest

from partwise.distributor.min_max import Filling, RunCosts, fill_in_order, split_min_max
from support.exact import has_runs_within, solve_slowest
from support.planning import Instance, least_by_table, random_instance


def split(costs: RunCosts) -> Filling | None:
    return split_min_max(costs.num_layers, costs.max_stop, costs.seconds, costs.num_servers)


def check_filling(instance: Instance, filling: Filling) -> None:
    """It tiles the layers, fits the servers, and takes what it says."""
    assert (filling.bounds[0], filling.bounds[-1]) == (0, len(instance.works))
    taken_s = [0.0]
    for server, (start, stop) in zip(filling.order, pairwise(filling.bounds), strict=True):
        assert start <= stop
        assert start == stop or instance.fits(server, start, stop)
        taken_s.append(instance.costs.seconds(server, start, stop))
    assert filling.slowest_s == max(taken_s)


def test_it_equals_every_cut_on_random_instances() -> None:
    rng = random.Random(0)
    num_none = num_unused = 0
    for _ in range(2000):
        num_servers = rng.randint(1, 4)
        instance = random_instance(rng, rng.randint(1, 10), num_servers)
        filling = split(instance.costs)
        expected = least_by_table(instance, range(num_servers))
        if expected is None:
            assert filling is None
            num_none += 1
        else:
            assert filling is not None
            check_filling(instance, filling)
            assert filling.slowest_s == expected
            num_unused += any(a == b for a, b in pairwise(filling.bounds))
    assert num_none > 150
    assert num_unused > 150


def test_it_equals_an_exact_solver_on_medium_instances() -> None:
    """HiGHS finds runs within what the split takes, and none within less."""
    rng = random.Random(1)
    num_none = 0
    for _ in range(200):
        instance = random_instance(rng, rng.randint(11, 40), rng.randint(4, 8))
        filling = split(instance.costs)
        if filling is None:
            assert not has_runs_within(instance, math.inf)
            num_none += 1
            continue
        check_filling(instance, filling)
        assert has_runs_within(instance, filling.slowest_s)
        assert not has_runs_within(instance, math.nextafter(filling.slowest_s, 0.0))
    assert 0 < num_none < 100


def test_it_equals_integer_programming_on_smaller_ones() -> None:
    rng = random.Random(2)
    for _ in range(20):
        instance = random_instance(rng, rng.randint(8, 16), rng.randint(3, 4))
        filling = split(instance.costs)
        expected = solve_slowest(instance)
        assert (filling.slowest_s if filling else math.inf) == pytest.approx(expected, rel=1e-6)


def test_no_limit_between_two_fillings_would_fill_differently() -> None:
    rng = random.Random(2)
    for _ in range(50):
        instance = random_instance(rng, 8, 3)
        limit_s = rng.random() * 4
        filling = fill_in_order(instance.costs, range(3), limit_s)
        if math.isfinite(filling.next_limit_s):
            below_s = math.nextafter(filling.next_limit_s, 0.0)
            assert fill_in_order(instance.costs, range(3), below_s).bounds == filling.bounds
            if min(instance.memories) == math.inf:
                at = fill_in_order(instance.costs, range(3), filling.next_limit_s)
                assert at.bounds != filling.bounds


@pytest.mark.parametrize(
    ("num_layers", "num_servers", "limit_s"), [(1000, 128, 0.2), (100_000, 1000, 10.0)]
)
@pytest.mark.quiet
def test_large_instances_take_little_time(
    num_layers: int, num_servers: int, limit_s: float
) -> None:
    rng = random.Random(3)
    sums = [0.0, *accumulate(rng.random() + 0.5 for _ in range(num_layers))]
    speeds = [rng.choice([1.0, 2.0, 3.5]) * (1 + rng.random()) for _ in range(num_servers)]

    def seconds(server: int, start: int, stop: int) -> float:
        return (sums[stop] - sums[start]) / speeds[server]

    def max_stop(server: int, start: int, limit_s: float) -> int:
        most = sums[start] + limit_s * speeds[server]
        stop = bisect.bisect_right(sums, most, lo=start) - 1
        while stop > start and seconds(server, start, stop) > limit_s:
            stop -= 1
        while stop < num_layers and seconds(server, start, stop + 1) <= limit_s:
            stop += 1
        return stop

    started = time.perf_counter()
    filling = split_min_max(num_layers, max_stop, seconds, num_servers)
    assert time.perf_counter() - started < limit_s
    assert filling is not None
    assert filling.slowest_s < 1.2 * sums[-1] / sum(speeds)
