"""Latency and throughput: never worse than simpler plans, and as good as trying everything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise, permutations
from typing import Any

import pytest

from partwise.cluster import Cluster, LinkSpeed
from partwise.distributor.arrangement import Arrangement, build_arrangement
from partwise.distributor.build import build_plan, whole_stages
from partwise.distributor.cost import Prediction, predict
from partwise.distributor.group_costs import Group, GroupCosts
from partwise.distributor.group_shares import share_by_speed
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible, PlanError
from partwise.model import Model
from support.clusters import random_cluster, random_workload
from support.planning import GIB, make_cluster, make_host, pose

Synthesise = Callable[[random.Random], Any]
MEASURES: dict[str, Callable[[Prediction], float]] = {
    "latency": lambda prediction: prediction.latency_s,
    "throughput": lambda prediction: 1 / prediction.tokens_per_s,
}
NAMES = sorted(MEASURES)


def joined_by(cluster: Cluster, round_trip_s: float) -> Cluster:
    link = LinkSpeed(bandwidth_bytes_per_s=1e12, round_trip_s=round_trip_s)
    return replace(cluster, default_link=link)


def measure(name: str, plan: Plan, problem: Problem) -> float:
    """What the strategy minimises, of any plan."""
    return MEASURES[name](predict(plan, problem.model, problem.cluster, problem.workload))


def list_simple(problem: Problem) -> Iterator[Plan]:
    """Each server alone, and the strategies that searching must never be worse than."""
    stop = len(problem.model.layers)
    for server in problem.servers:
        try:
            yield build_plan(problem, "alone", whole_stages([(server, 0, stop)]), [server])
        except Infeasible:
            continue
    for simple in ("balanced", "count", "compute", "greedy"):
        try:
            yield STRATEGIES[simple].plan(problem)
        except Infeasible:
            continue


@pytest.mark.parametrize("name", NAMES)
def test_it_is_never_worse_than_one_server_or_a_simpler_strategy(
    name: str, make_synthetic: Synthesise
) -> None:
    rng = random.Random(4)
    num_better = num_alone = num_infeasible = 0
    for _ in range(120):
        cluster = joined_by(random_cluster(rng), rng.choice([1e-7, 1e-5, 1e-4]))
        problem = Problem(
            model=make_synthetic(rng).model,
            cluster=cluster,
            workload=random_workload(rng),
            servers=tuple(server.name for server in cluster.servers),
        )
        simple = [measure(name, plan, problem) for plan in list_simple(problem)]
        try:
            found = STRATEGIES[name].plan(problem)
        except Infeasible:
            assert not simple
            num_infeasible += 1
            continue
        assert found.strategy == name
        found_s = measure(name, found, problem)
        assert found_s <= min(simple, default=found_s)
        num_better += bool(simple) and found_s < 0.99 * min(simple)
        num_alone += len(found.parts) == 1
    assert num_better > 15
    assert num_alone > 5
    assert num_infeasible > 5


def list_everything(problem: Problem, costs: GroupCosts) -> Iterator[Plan]:
    """Every order of every choice of servers, cut into groups and over the layers in every way;
    neurons are shared by speed."""
    num_layers = len(problem.model.layers)
    for size in range(1, len(problem.servers) + 1):
        for order in permutations(problem.servers, size):
            for num_groups in range(1, min(size, num_layers) + 1):
                for inner in combinations(range(1, size), num_groups - 1):
                    groups = [order[a:b] for a, b in pairwise((0, *inner, size))]
                    if all(list(group) == sorted(group) for group in groups):
                        yield from cut_everywhere(problem, costs, groups)


def cut_everywhere(problem: Problem, costs: GroupCosts, groups: list[Group]) -> Iterator[Plan]:
    num_layers, setting = len(problem.model.layers), costs.settle(groups)
    shares = tuple(share_by_speed(costs, group, setting) for group in groups)
    for inner in combinations(range(1, num_layers), len(groups) - 1):
        bounds = (0, *inner, num_layers)
        try:
            yield build_arrangement(
                costs, "any", Arrangement(groups=tuple(groups), bounds=bounds, shares=shares)
            )
        except Infeasible:
            continue


@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_good_as_trying_all_stages_and_members(
    name: str, make_synthetic: Synthesise
) -> None:
    rng = random.Random(6)
    num_compared = num_stages = num_members = 0
    while num_compared < 60:
        model = make_synthetic(rng).model
        cluster = joined_by(random_cluster(rng), rng.choice([1e-7, 1e-5, 1e-4]))
        if len(model.layers) > 8 or len(cluster.servers) > 3:
            continue
        problem = Problem(
            model=model,
            cluster=cluster,
            workload=replace(random_workload(rng), is_training=False),
            servers=tuple(server.name for server in cluster.servers),
        )
        streams = 1 if name == "latency" else problem.workload.streams
        every = list_everything(problem, GroupCosts(problem, streams))
        best_s = min((measure(name, plan, problem) for plan in every), default=None)
        if best_s is None:
            continue
        found = STRATEGIES[name].plan(problem)
        assert measure(name, found, problem) <= best_s * (1 + 1e-6)
        num_compared += 1
        num_stages += len(found.stages) > 1
        num_members += any(len(stage.members) > 1 for stage in found.stages)
    assert num_stages + num_members > 3


def slow_problem(model: Model, round_trip_s: float, streams: int = 1) -> Problem:
    """Three servers that take a millisecond for the model, and a link of any speed."""
    cluster = joined_by(make_cluster([1e-3] * 3, [GIB] * 3, call_overhead_s=0.0), round_trip_s)
    workload = Workload(context_tokens=16, prefill_tokens=4, streams=streams)
    return replace(pose(model, cluster), workload=workload)


def test_one_server_wins_where_links_are_slow_and_members_where_they_are_fast(
    model: Model,
) -> None:
    for name in NAMES:
        alone = STRATEGIES[name].plan(slow_problem(model, 1e-2))
        assert [len(stage.members) for stage in alone.stages] == [1]
        shared = STRATEGIES[name].plan(slow_problem(model, 1e-9))
        assert [len(stage.members) for stage in shared.stages] == [3]


def test_many_streams_over_slow_links_are_pipelined(model: Model) -> None:
    problem = slow_problem(model, 1e-3, streams=64)
    assert len(STRATEGIES["throughput"].plan(problem).stages) == 3
    assert len(STRATEGIES["latency"].plan(problem).stages) == 1


def test_stages_by_layers_and_by_neurons_are_mixed(model: Model) -> None:
    """Two pairs of servers: fast links within each, a slow one between them."""
    near = LinkSpeed(bandwidth_bytes_per_s=1e12, round_trip_s=1e-9)
    cluster = make_cluster([1e-3] * 4, [11_000] * 4, call_overhead_s=0.0)
    cluster = replace(joined_by(cluster, 1e-4), links={("s0", "s2"): near, ("s1", "s3"): near})
    plan = STRATEGIES["latency"].plan(pose(model, cluster))
    server_of = {part.name: part.server for part in plan.parts}
    members = {frozenset(server_of[m.part] for m in stage.members) for stage in plan.stages}
    assert members == {frozenset({"s0", "s2"}), frozenset({"s1", "s3"})}


def test_shares_are_as_uneven_as_the_servers(model: Model) -> None:
    cluster = joined_by(make_cluster([3e-3, 1e-3], [GIB] * 2, call_overhead_s=0.0), 1e-9)
    problem = pose(model, cluster)
    plan = STRATEGIES["latency"].plan(problem)
    (stage,) = plan.stages
    owned = [
        {share.kind: sum(b - a for a, b in share.ranges) for share in member.neurons}
        for member in stage.members
    ]
    assert [counts["kv_group"] for counts in owned] == [3, 1]
    assert [counts["mlp_unit"] for counts in owned] in ([9, 3], [10, 2])
    found_s = measure("latency", plan, problem)
    equal_s = measure("latency", STRATEGIES["count"].plan(problem), problem)
    assert found_s < 0.6 * equal_s


def test_a_server_whose_host_computes_nothing_at_the_precision_is_named(model: Model) -> None:
    cluster = make_cluster([1.0, 1.0], [GIB] * 2)
    hosts = (cluster.hosts[0], make_host("h-s1", rates={"int8": make_host("x").rates["fp32"]}))
    problem = pose(model, replace(cluster, hosts=hosts))
    for name in NAMES:
        with pytest.raises(PlanError, match="host 'h-s1' gives no rates for fp32, only for int8"):
            STRATEGIES[name].plan(problem)
