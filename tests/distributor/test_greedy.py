"""Greedy: budgets filled in order, and no fewer parts for equal ones."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from partwise.cluster.description import Cluster, LinkSpeed, Server
from partwise.distributor.budgets import fill_budgets, find_budgets
from partwise.distributor.cache_fit import share_of_cache
from partwise.distributor.greedy import plan
from partwise.distributor.segment_costs import SegmentCosts
from partwise.errors import Infeasible
from partwise.model import Model
from support.planning import GIB, make_cluster, make_host, make_problem, pose


def fewest_parts(sizes: list[int], budget: int) -> int:
    """By a table over all cuts."""
    best = [0] + [len(sizes) + 1] * len(sizes)
    for stop in range(1, len(sizes) + 1):
        for start in range(stop):
            if sum(sizes[start:stop]) <= budget:
                best[stop] = min(best[stop], best[start] + 1)
    return best[-1]


def test_equal_budgets_are_met_by_the_fewest_parts() -> None:
    rng = random.Random(0)
    num_left = 0
    for _ in range(2000):
        sizes = [rng.choice([0, 1, 2, 5, 9]) for _ in range(rng.randint(1, 12))]
        budget, num_calls = rng.randint(9, 20), 0

        def fits(_: int, start: int, stop: int) -> bool:
            nonlocal num_calls
            num_calls += 1
            return sum(sizes[start:stop]) <= budget  # noqa: B023

        num_servers = rng.randint(1, 6)
        bounds = fill_budgets(len(sizes), fits, num_servers)
        assert num_calls <= len(sizes) + num_servers
        assert all(sum(sizes[a:b]) <= budget for a, b in pairwise(bounds))
        fewest = fewest_parts(sizes, budget)
        if fewest > num_servers:
            assert bounds[-1] < len(sizes)
            num_left += 1
        else:
            assert bounds[-1] == len(sizes)
            assert sum(a < b for a, b in pairwise(bounds)) == fewest
    assert num_left > 200


def memory_for(model: Model, start: int, stop: int) -> int:
    problem = make_problem(model, 1)
    costs = SegmentCosts(model, problem.cluster, problem.workload, problem.servers)
    return costs.bytes(start, stop)


def test_memory_is_filled_in_order_and_servers_left_over_stay_unused(model: Model) -> None:
    memories = [memory_for(model, 0, 3), 1, memory_for(model, 3, 7), GIB]
    found = plan(pose(model, make_cluster([1.0] * 4, memories)))
    assert [(s.start, s.stop) for s in found.stages] == [(0, 3), (3, 7)]
    assert [part.server for part in found.parts] == ["s0", "s2"]
    assert found.strategy == "greedy"


def test_the_cache_is_the_budget_where_it_is_asked_for(model: Model) -> None:
    # A block reads 6,208 bytes (its past included), the head 1,920.
    cluster = make_cluster([1.0] * 4, [GIB] * 4, cache_bytes=13_000)
    assert len(plan(pose(model, cluster)).stages) == 1
    cached = plan(pose(model, cluster, cache_fit=True))
    assert [(s.start, s.stop) for s in cached.stages] == [(0, 3), (3, 6), (6, 7)]
    fits = find_budgets(pose(model, cluster, cache_fit=True))
    for i, stage in enumerate(cached.stages):
        assert fits(i, stage.start, stage.stop)
        assert stage.stop == 7 or not fits(i, stage.start, stage.stop + 1)


def test_servers_of_one_host_share_its_cache_evenly(model: Model) -> None:
    cluster = Cluster(
        hosts=(make_host("a", cache_bytes=1000), make_host("b", cache_bytes=1000)),
        servers=tuple(
            Server(name=f"s{i}", host=host, threads=1, memory_bytes=GIB)
            for i, host in enumerate("aab")
        ),
        default_link=LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=1e-4),
    )
    problem = pose(model, cluster)
    assert [share_of_cache(problem, name) for name in problem.servers] == [500, 500, 1000]
    assert share_of_cache(replace(problem, servers=("s0",)), "s0") == 1000


def test_a_lower_precision_is_offered_where_hosts_compute_it_and_it_suffices(model: Model) -> None:
    rates = make_host("any").rates["fp32"]
    hosts = {"rates": dict.fromkeys(("fp32", "int8", "int4"), rates)}
    for share, words in ((0.6, "or int8, or 1 more"), (0.35, "or int4, or"), (0.1, "'s0', or ")):
        memory_bytes = round(share * memory_for(model, 0, 7))
        with pytest.raises(Infeasible) as error:
            plan(pose(model, make_cluster([1.0], [memory_bytes], **hosts)))
        assert words in str(error.value)
    assert "int" not in str(error.value)


def test_a_cache_that_nobody_measured_is_named(model: Model) -> None:
    cluster = make_cluster([1.0], [GIB], cache_bytes=None)
    with pytest.raises(Infeasible, match=r"host 'h-s0' .* has no cache_bytes: probe it"):
        plan(pose(model, cluster, cache_fit=True))


def test_what_is_missing_is_said_in_one_line(model: Model) -> None:
    whole = memory_for(model, 0, 7)
    with pytest.raises(Infeasible) as error:
        plan(pose(model, make_cluster([1.0], [whole - 1])))
    message = str(error.value)
    assert "\n" not in message
    for words in ("of tiny", "1 server offers", "KiB more on server 's0', or 1 more server of"):
        assert words in message, message
