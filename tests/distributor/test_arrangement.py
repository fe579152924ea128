"""Arranged groups: as a plan of them is predicted, and cut no worse than any other way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from partwise.distributor.arrangement import Arrangement, Arranger, build_arrangement
from partwise.distributor.cost import predict
from partwise.distributor.footprint import part_footprint
from partwise.distributor.group_costs import Group, GroupCosts
from partwise.distributor.layer_classes import LayerClasses, RunTable, make_runs
from partwise.distributor.member_shares import share_classes
from partwise.distributor.problem import Problem
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible
from support.clusters import random_cluster, random_workload
from support.large import describe_llama, mix_servers

Synthesise = Callable[[random.Random], Any]


def random_problem(rng: random.Random, make_synthetic: Synthesise) -> Problem:
    cluster = random_cluster(rng)
    loopback = rng.choice([None, cluster.default_link])
    return Problem(
        model=make_synthetic(rng).model,
        cluster=replace(cluster, loopback_link=loopback),
        workload=random_workload(rng),
        servers=tuple(server.name for server in cluster.servers),
    )


def random_groups(rng: random.Random, problem: Problem) -> list[Group]:
    names = rng.sample(problem.servers, rng.randint(1, len(problem.servers)))
    groups = []
    while names:
        size = rng.randint(1, len(names))
        groups.append(tuple(names[:size]))
        names = names[size:]
    return groups


def predict_cycle_s(problem: Problem, costs: GroupCosts, found: Arrangement) -> float:
    """Seconds in which every stream gets a token, as the plan is predicted."""
    workload = replace(problem.workload, streams=costs.workload.streams)
    plan = build_arrangement(costs, "test", found)
    prediction = predict(plan, problem.model, problem.cluster, workload)
    tokens = prediction.rows if workload.is_training else 1
    return workload.streams * tokens / prediction.tokens_per_s


def test_an_arrangement_takes_what_its_plan_is_predicted_to(make_synthetic: Synthesise) -> None:
    rng = random.Random(0)
    num_found = num_shared = num_better = 0
    for _ in range(250):
        problem = random_problem(rng, make_synthetic)
        groups = random_groups(rng, problem)
        costs = GroupCosts(problem, rng.choice([1, problem.workload.streams]))
        arranger = Arranger(costs)
        found = arranger.arrange(groups)
        if found is None:
            continue
        num_found += 1
        num_shared += len(groups) < len(problem.servers)
        assert predict_cycle_s(problem, costs, found) == pytest.approx(found.cycle_s, rel=1e-3)
        balanced = arranger.balance(found)
        assert balanced.cycle_s <= found.cycle_s
        assert predict_cycle_s(problem, costs, balanced) == pytest.approx(
            balanced.cycle_s, rel=1e-3
        )
        num_better += balanced.cycle_s < 0.999 * found.cycle_s
    assert num_found > 100
    assert num_shared > 50
    assert num_better > 5


def cut_everywhere(found: Arrangement, num_layers: int) -> Iterator[Arrangement]:
    for inner in combinations(range(1, num_layers), len(found.groups) - 1):
        yield replace(found, bounds=(0, *inner, num_layers))


def test_no_other_cuts_of_the_same_shares_are_better(make_synthetic: Synthesise) -> None:
    rng = random.Random(1)
    num_compared = 0
    for _ in range(200):
        problem = random_problem(rng, make_synthetic)
        servers = tuple(replace(s, memory_bytes=1 << 26) for s in problem.cluster.servers)
        problem = replace(problem, cluster=replace(problem.cluster, servers=servers))
        groups = random_groups(rng, problem)[:3]
        costs = GroupCosts(problem, rng.choice([1, 3]))
        found = Arranger(costs).arrange(groups)
        num_layers = len(problem.model.layers)
        if found is None or num_layers > 10:
            continue
        for other in cut_everywhere(found, num_layers):
            try:
                other_s = predict_cycle_s(problem, costs, other)
            except Infeasible:
                continue
            assert found.cycle_s <= other_s * 1.001
            num_compared += 1
    assert num_compared > 200


def test_no_arrangement_is_found_only_where_no_cut_fits(make_synthetic: Synthesise) -> None:
    """Groups of one: shares are not in question then."""
    rng = random.Random(2)
    num_none = 0
    for _ in range(150):
        problem = random_problem(rng, make_synthetic)
        groups = [(name,) for name in problem.servers[:3]]
        num_layers = len(problem.model.layers)
        if num_layers < len(groups):
            continue
        costs = GroupCosts(problem, 1)
        if Arranger(costs).arrange(groups) is None:
            num_none += 1
            shares = share_classes(costs.classes, [1.0], {})
            start = Arrangement(groups=tuple(groups), bounds=(), shares=(shares,) * len(groups))
            for other in cut_everywhere(start, num_layers):
                with pytest.raises(Infeasible):
                    build_arrangement(costs, "test", other)
    assert num_none > 10


def test_runs_that_cost_the_same_are_priced_once() -> None:
    model = describe_llama(num_blocks=126, hidden=64, inner=64, heads=4, kv_heads=4, vocabulary=100)
    classes = LayerClasses(model)
    assert len(classes.layers) == 4
    table = RunTable(classes)
    assert len(table.cuts) == 130
    # With or without the embedding before, nothing or the norm or the norm and the head behind
    # 0 to 126 blocks; and the head alone.
    assert len(table.runs.counts) < 2 * 2 * 127 + 8
    every = [(a, b) for a in range(130) for b in range(a + 1, 130)]
    by_run = make_runs(classes, every).counts.sum(axis=1)
    spread = table.spread(table.runs.counts.sum(axis=1).astype(float))
    assert all(spread[run] == n for run, n in zip(every, by_run, strict=True))
    assert list(RunTable(classes, max_cuts=1).cuts) == [0, 129]


def test_members_fit_their_memory_where_shares_by_speed_would_not() -> None:
    """A fast server with little memory beside a slow one with much."""
    model = describe_llama(
        num_blocks=8, hidden=1024, inner=4096, heads=16, kv_heads=8, vocabulary=1000
    )
    cluster = mix_servers(2)
    weight_bytes = 4 * model.num_parameters
    hosts = tuple(
        replace(host, one_core_bytes_per_s=cluster.hosts[0].one_core_bytes_per_s, cores=4)
        for host in cluster.hosts
    )
    memory = (round(0.25 * weight_bytes), 2 * weight_bytes)
    servers = tuple(
        replace(server, memory_bytes=num_bytes, threads=threads)
        for server, num_bytes, threads in zip(cluster.servers, memory, (4, 1), strict=True)
    )
    problem = Problem(
        model=model,
        cluster=replace(cluster, hosts=hosts, servers=servers),
        workload=Workload(context_tokens=64),
        servers=("s0", "s1"),
    )
    costs = GroupCosts(problem, 1)
    arranger = Arranger(costs)
    found = arranger.arrange([("s0", "s1")])
    assert found is not None
    plan = build_arrangement(costs, "test", arranger.balance(found))
    needed = part_footprint(plan, model, "part0", problem.workload).total_bytes
    assert 0.8 * memory[0] < needed <= memory[0]
