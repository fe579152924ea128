"""The balanced strategy against every cut there is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise, permutations
from typing import Any

import pytest

from partwise.cluster.description import Cluster, LinkSpeed, Server
from partwise.distributor import Plan, balance_layers
from partwise.distributor.balanced import cut_evenly, find_least_limit, plan, weigh
from partwise.distributor.balanced_runs import find_kinds
from partwise.distributor.cost import predict
from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import RunnerName
from partwise.distributor.problem import Problem
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible, PlanError
from partwise.model import LayerKind, Model
from support.clusters import random_cluster
from support.planning import GIB, make_cluster, make_host, pose

Synthesise = Callable[[random.Random], Any]


def judge(weights: list[int], bounds: tuple[int, ...]) -> tuple[int, int]:
    """The largest run, then how uneven the runs are."""
    runs = [sum(weights[start:stop]) for start, stop in pairwise(bounds)]
    return max(runs), sum(run**2 for run in runs)


def test_no_cut_is_better_than_the_one_chosen() -> None:
    rng = random.Random(1)
    for _ in range(400):
        weights = [rng.choice([0, 1, 1, 2, 3, 7, 20]) for _ in range(rng.randint(1, 8))]
        num_parts = rng.randint(1, len(weights))
        bounds = tuple(cut_evenly(weights, num_parts))
        every_cut = [
            (0, *cuts, len(weights)) for cuts in combinations(range(1, len(weights)), num_parts - 1)
        ]
        assert bounds in every_cut
        least = min(judge(weights, cut)[0] for cut in every_cut)
        assert find_least_limit(weights, num_parts) == least
        assert judge(weights, bounds) == min(judge(weights, cut) for cut in every_cut)


@pytest.mark.quiet
def test_a_large_model_is_cut_in_a_second() -> None:
    weights = [16384, *[3_000_000_000] * 126, 16384, 2_000_000_000]
    started = time.perf_counter()
    for num_parts in (2, 16, 64, 129):
        assert len(cut_evenly(weights, num_parts)) == num_parts + 1
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        (LayerKind.EMBEDDING, 16),  # one row of its 30
        # q, k, v, o with biases, gate, up and down, two norms; and the block itself
        (LayerKind.BLOCK, 2 * 272 + 2 * 136 + 3 * 192 + 2 * 16 + 5_000),
        (LayerKind.NORM, 16),
        (LayerKind.HEAD, 30 * 16),  # its whole table, tied or not
    ],
)
def test_a_layer_weighs_what_it_reads_and_a_block_a_constant_more(
    kind: LayerKind, weight: int, model: Model
) -> None:
    assert {weigh(layer, 5_000) for layer in model.layers if layer.kind is kind} == {weight}


def test_a_cut_heeds_the_row_of_a_table_and_the_constant_of_blocks(
    heavy_ends_model: Model,
) -> None:
    def first_stop(weights: list[int]) -> int:
        """The cut in two with the least larger half, by trying all."""
        stops = range(1, len(weights))
        return min(stops, key=lambda stop: max(sum(weights[:stop]), sum(weights[stop:])))

    block, table = 3_540_096, 49152 * 576
    row_read, whole_table, no_constant = (
        first_stop([first, *[block + constant] * 30, 576, table])
        for first, constant in ((576, 1_000_000), (table, 1_000_000), (576, 0))
    )
    assert len({row_read, whole_table, no_constant}) == 3  # the model tells them apart
    assert balance_layers(heavy_ends_model, ["a", "b"]).stages[0].stop == row_read


def test_a_block_costs_a_runner_what_its_operators_cost_there(heavy_ends_model: Model) -> None:
    def first_stop(runner: RunnerName) -> int:
        plan = balance_layers(heavy_ends_model, ["a", "b"], precision="int4", runner=runner)
        return plan.stages[0].stop

    # Of 3.5 million elements a block, 8 million more and 0.6 million more: the head weighs less.
    assert first_stop("torch") < first_stop("onnx")


def test_parts_links_and_servers_follow_the_layers(model: Model) -> None:
    plan = balance_layers(model, ["x", "y", "z"], plan_version=7)
    assert [(p.name, p.server) for p in plan.parts] == [
        ("part0", "x"),
        ("part1", "y"),
        ("part2", "z"),
    ]
    assert [(link.source, link.target) for link in plan.links] == [
        ("part0", "part1"),
        ("part1", "part2"),
    ]
    assert [stage.members[0].part for stage in plan.stages] == ["part0", "part1", "part2"]
    assert (plan.strategy, plan.plan_version) == ("balanced", 7)


def test_more_parts_than_layers_names_both_numbers(model: Model) -> None:
    with pytest.raises(PlanError, match=r"8 parts are more than the 7 layers of tiny: ask for 7"):
        balance_layers(model, [str(i) for i in range(8)])


def test_no_server_is_refused(model: Model) -> None:
    with pytest.raises(PlanError, match="at least 1 server, got 0"):
        balance_layers(model, [])


def test_a_server_named_twice_is_refused(model: Model) -> None:
    with pytest.raises(PlanError, match="'part0' and 'part2' are both on server 'a'"):
        balance_layers(model, ["a", "b", "a"])


def test_unequal_servers_take_what_makes_the_slowest_fastest(model: Model) -> None:
    problem = pose(model, make_cluster([1.0, 4.0, 2.0], [GIB] * 3))
    costs = SegmentCosts(model, problem.cluster, problem.workload, problem.servers)
    every = [
        max(costs.seconds(server, *run) for server, run in zip(order, pairwise(cut), strict=True))
        for order in permutations(range(3))
        for cut in ((0, a, b, 7) for a in range(8) for b in range(a, 8))
    ]
    found = plan(problem)
    assert slowest(found, costs) == min(every)
    kept = plan(replace(problem, options={"keep_order": True}))
    assert [part.server for part in kept.parts] == sorted(part.server for part in kept.parts)
    assert slowest(kept, costs) == min(every[:36])
    assert found.notes == kept.notes == ()


@pytest.mark.parametrize("keep_order", [False, True])
def test_no_choice_of_fewer_servers_has_a_faster_slowest_part(
    keep_order: bool, make_synthetic: Synthesise
) -> None:
    rng, num_fewer = random.Random(7), 0
    for _ in range(60):
        model, cluster = make_synthetic(rng).model, crowd(rng)
        names = tuple(server.name for server in cluster.servers)
        problem = replace(
            pose(model, cluster, keep_order=keep_order),
            workload=Workload(context_tokens=16, prefill_tokens=4, streams=rng.randint(1, 6)),
        )
        found = plan(problem)
        choices = [c for n in range(1, len(names) + 1) for c in combinations(names, n)]
        every = [predict_slowest(plan(replace(problem, servers=c)), problem) for c in choices]
        assert predict_slowest(found, problem) <= min(every) * (1 + 1e-9)
        num_fewer += len(found.parts) < len(names)
    assert num_fewer > 5


def crowd(rng: random.Random) -> Cluster:
    """Servers that share hosts, where each of them costs the others something."""
    cluster = random_cluster(rng)
    hosts = [replace(h, call_overhead_s=rng.choice([0, 1e-5, 1e-4])) for h in cluster.hosts]
    servers = [replace(server, memory_bytes=1 << 24) for server in cluster.servers[:4]]
    return replace(cluster, hosts=tuple(hosts), servers=tuple(servers))


def predict_slowest(found: Plan, problem: Problem) -> float:
    prediction = predict(found, problem.model, problem.cluster, problem.workload)
    return max(part.busy_s for part in prediction.parts)


def test_training_leaves_room_for_the_microbatches_in_flight(model: Model) -> None:
    workload = Workload(
        context_tokens=64, sequences=8, streams=8, is_training=True, has_checkpointing=False
    )
    problem = replace(pose(model, make_cluster([1.0] * 3, [GIB] * 3)), workload=workload)
    roomy = plan(problem)
    largest = max(
        part_footprint(roomy, model, part.name, workload).total_bytes for part in roomy.parts
    )
    cluster = make_cluster([1.0] * 3, [largest * 9 // 10] * 3)
    for options in ({}, {"keep_order": True}):
        # A plan that does not fit is refused where it is built.
        tight = plan(replace(problem, cluster=cluster, options=options))
        assert tight.stages != roomy.stages


def slowest(found: Plan, costs: SegmentCosts) -> float:
    return max(
        costs.seconds(int(found.part(stage.members[0].part).server[1:]), stage.start, stage.stop)
        for stage in found.stages
    )


def test_a_server_that_fits_nothing_stays_unused(model: Model) -> None:
    found = plan(pose(model, make_cluster([1.0] * 3, [GIB, 64, GIB])))
    assert [part.server for part in found.parts] == ["s0", "s2"]


def test_servers_that_cannot_hold_the_model_are_told_what_is_missing(model: Model) -> None:
    with pytest.raises(Infeasible, match=r"of tiny .* 2 servers offer .* needed is .* KiB more"):
        plan(pose(model, make_cluster([1.0] * 2, [12_000] * 2)))


def test_a_searched_order_says_that_it_is_not_proved(model: Model) -> None:
    found = plan(pose(model, make_cluster([1 + i / 13 for i in range(13)], [GIB] * 13)))
    assert found.notes == ("the order of 13 unequal servers is searched, not proved best",)


def test_servers_are_of_one_kind_where_host_threads_memory_and_sharers_agree(model: Model) -> None:
    cluster = Cluster(
        hosts=(make_host("a"), make_host("b"), make_host("c", speed=2.0)),
        servers=tuple(
            Server(name=f"s{i}", host=host, threads=threads, memory_bytes=GIB)
            for i, (host, threads) in enumerate([("a", 1), ("a", 1), ("b", 1), ("c", 1), ("b", 1)])
        ),
        default_link=LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=1e-4),
    )
    assert find_kinds(pose(model, cluster)) == [0, 0, 0, 1, 0]
    alone = replace(pose(model, cluster), servers=("s0", "s2", "s4"))
    assert find_kinds(alone) == [0, 1, 1]
