"""Layers too large for a server: split, reduced as allowed, or a line that says what is missing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from partwise.cluster import Cluster
from partwise.distributor.build import say_bytes
from partwise.distributor.cache_fit import share_of_cache
from partwise.distributor.cost import predict
from partwise.distributor.footprint import layer_footprint, part_footprint
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import grow_server
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible
from partwise.model import Model
from support.large import describe_llama
from support.planning import make_cluster, make_host, pose

NAMES = ("greedy", "balanced", "latency", "throughput", "auto")
UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
LLAMA = describe_llama(num_blocks=4, hidden=256, inner=1024, heads=8, kv_heads=8, vocabulary=512)
WORKLOAD = Workload(context_tokens=16, prefill_tokens=1)
BLOCK_BYTES = layer_footprint(LLAMA, 1, WORKLOAD).total_bytes


def cluster_of(memories: list[int], **changes: Any) -> Cluster:
    """Servers whose hosts compute every precision."""
    rates = make_host("any").rates["fp32"]
    every = dict.fromkeys(("fp32", "int8", "int4"), rates)
    return make_cluster([1.0] * len(memories), memories, rates=every, **changes)


def problem_of(memories: list[int], *allowed: str, **options: Any) -> Problem:
    problem = pose(LLAMA, cluster_of(memories), **options)
    return replace(problem, workload=WORKLOAD, allow=frozenset(allowed))


def needs(plan: Plan, problem: Problem) -> dict[str, int]:
    return {
        part.server: part_footprint(plan, LLAMA, part.name, problem.workload).total_bytes
        for part in plan.parts
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_fits_no_server_is_split_and_the_notes_have_the_arithmetic(name: str) -> None:
    memory = round(0.7 * BLOCK_BYTES)
    problem = problem_of([memory] * 10)
    plan = STRATEGIES[name].plan(problem)
    assert max(len(stage.members) for stage in plan.stages) > 1
    assert max(needs(plan, problem).values()) <= memory
    [line] = [note for note in plan.notes if "split by neurons" in note]
    assert say_bytes(BLOCK_BYTES) in line
    assert f"{say_bytes(memory)} of memory" in line
    assert {part.precision for part in plan.parts} == {"fp32"}


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_reduced_as_little_as_is_allowed_and_suffices(name: str) -> None:
    whole = SegmentCosts(LLAMA, cluster_of([1]), WORKLOAD).bytes(0, len(LLAMA.layers))
    for share, allowed, precision, is_sparse in (
        (1.1, ("int8", "int4", "sparse"), "fp32", False),
        (0.5, ("int8", "int4", "sparse"), "int8", False),
        (0.5, ("int4",), "int4", False),
        (0.24, ("int8", "int4"), "int4", False),
        (0.24, ("int8", "sparse"), "int8", True),
        (0.8, ("sparse",), "fp32", True),
    ):
        problem = problem_of([round(share * whole)], *allowed)
        plan = STRATEGIES[name].plan(problem)
        [part] = plan.parts
        assert (part.precision, part.mlp_sparsity > 0) == (precision, is_sparse)
        assert needs(plan, problem)["s0"] <= share * whole
        if share < 1:
            assert "as allowed" in plan.notes[0]
            assert say_bytes(whole) in plan.notes[0]
            with pytest.raises(Infeasible):
                STRATEGIES[name].plan(replace(problem, allow=frozenset()))
        if is_sparse:
            less = round(part.mlp_sparsity - 0.1, 1)
            workload = replace(WORKLOAD, precision=precision, mlp_sparsity=less)
            costs = SegmentCosts(LLAMA, problem.cluster, workload)
            assert costs.bytes(0, len(LLAMA.layers)) > share * whole


def test_a_precision_that_a_host_does_not_compute_is_not_taken() -> None:
    whole = SegmentCosts(LLAMA, cluster_of([1]), WORKLOAD).bytes(0, len(LLAMA.layers))
    problem = problem_of([whole // 2], "int8")
    hosts = tuple(
        replace(host, rates={"fp32": host.rates["fp32"]}) for host in problem.cluster.hosts
    )
    with pytest.raises(Infeasible) as error:
        STRATEGIES["greedy"].plan(replace(problem, cluster=replace(problem.cluster, hosts=hosts)))
    assert "int" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_a_budget_too(name: str) -> None:
    cluster = cluster_of([1 << 30] * 10, cache_bytes=round(0.7 * BLOCK_BYTES))
    problem = replace(pose(LLAMA, cluster, cache_fit=True), workload=WORKLOAD)
    plan = STRATEGIES[name].plan(problem)
    parts = predict(plan, LLAMA, cluster, WORKLOAD).parts
    assert len(parts) > 4
    for part in parts:
        assert part.working_set_bytes <= share_of_cache(problem, part.server)
    assert any("of cache" in note for note in plan.notes)


def read_bytes(text: str) -> float:
    number, unit = text.split()
    return float(number.replace(",", "")) * UNITS[unit]


def repair(problem: Problem, message: str) -> list[Problem]:
    """The problem with each remedy that the message names."""
    cluster, like = problem.cluster, max(problem.cluster.servers, key=lambda s: s.memory_bytes)
    repaired = []
    if more := re.search(r"needed is ([\d.,]+ \wiB) more on server '(\w+)'", message):
        # The number is rounded to two places.
        memory = round(1.001 * read_bytes(more[1])) + 64
        repaired.append(grow_server(problem, more[2], memory))
    if count := re.search(r"(\d+) more servers? of", message):
        repaired.append(add_servers(problem, int(count[1]), like.memory_bytes))
    if precision := re.search(r"or (fp16|int8|int4)\b", message):
        workload = replace(problem.workload, precision=precision[1])
        repaired.append(replace(problem, workload=workload))
    assert cluster is problem.cluster
    return repaired


def add_servers(problem: Problem, num_more: int, memory_bytes: int) -> Problem:
    cluster, like = problem.cluster, max(problem.cluster.servers, key=lambda s: s.memory_bytes)
    host = cluster.host_of(like.name)
    names = [f"more{i}" for i in range(num_more)]
    more = replace(
        cluster,
        hosts=(*cluster.hosts, *(replace(host, name=f"h-{name}") for name in names)),
        servers=(
            *cluster.servers,
            *(replace(like, name=n, host=f"h-{n}", memory_bytes=memory_bytes) for n in names),
        ),
    )
    return replace(problem, cluster=more, servers=(*problem.servers, *names))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_to_be_missing_suffices(
    name: str, make_synthetic: Callable[[random.Random], Any]
) -> None:
    rng = random.Random(8)
    num_repaired = num_fewer = 0
    for _ in range(60):
        model = make_synthetic(rng).model
        num_servers = rng.randint(1, 3)
        memories = [rng.choice([4_000, 10_000, 25_000]) for _ in range(num_servers)]
        problem = pose(model, cluster_of(memories))
        try:
            STRATEGIES[name].plan(problem)
        except Infeasible as error:
            message = str(error)
        else:
            continue
        assert "\n" not in message
        for repaired in repair(problem, message):
            assert STRATEGIES[name].plan(repaired)
            num_repaired += 1
        assert "are left over" in message or "is left over" in message
        more = re.search(r"needed is ([\d.,]+ \wiB) more on server '(\w+)'", message)
        assert more, message
        if name == "greedy":
            less = grow_server(problem, more[2], round(0.97 * read_bytes(more[1])) - 80)
            with pytest.raises(Infeasible):
                STRATEGIES[name].plan(less)
        fewest = re.search(r"(\d+) more servers? of", message)
        if name == "greedy" and fewest and int(fewest[1]) > 1:
            fewer = add_servers(problem, int(fewest[1]) - 1, max(memories))
            with pytest.raises(Infeasible):
                STRATEGIES[name].plan(fewer)
            num_fewer += 1
    assert num_repaired > 20
    assert name != "greedy" or num_fewer > 5


def test_a_server_that_can_hold_no_share_stays_unused(model: Model) -> None:
    block = layer_footprint(model, 1, pose(model, cluster_of([1])).workload).total_bytes
    memories = [100, round(0.8 * block), 100, round(0.8 * block), *[round(0.8 * block)] * 10]
    plan = STRATEGIES["greedy"].plan(pose(model, cluster_of(memories)))
    assert not {"s0", "s2"} & {part.server for part in plan.parts}


def test_bytes_are_said_in_a_unit_that_fits() -> None:
    assert say_bytes(21.4 * (1 << 30)) == "21.40 GiB"
    assert say_bytes(49.5 * (1 << 20)) == "49.50 MiB"
    assert say_bytes(300 * (1 << 20)) == "300.00 MiB"
    assert say_bytes(2_048) == "2.00 KiB"
    assert say_bytes(0) == "0.00 KiB"


def test_tied_ends_that_no_server_holds_are_split_in_one_stage(heavy_ends_model: Model) -> None:
    # As in SmolLM2: the table takes 108 MiB, which each member would hold whole in two stages.
    memory = 52 << 20
    problem = pose(heavy_ends_model, cluster_of([memory] * 32))
    for name in ("greedy", "balanced"):
        plan = STRATEGIES[name].plan(problem)
        assert len(plan.stages) == 1
        for part in plan.parts:
            footprint = part_footprint(plan, heavy_ends_model, part.name, problem.workload)
            assert footprint.total_bytes <= memory


def test_what_is_missing_of_a_cache_has_a_figure_and_remedies() -> None:
    cluster = cluster_of([1 << 30] * 2, cache_bytes=round(0.5 * BLOCK_BYTES))
    problem = replace(pose(LLAMA, cluster, cache_fit=True), workload=WORKLOAD)
    with pytest.raises(Infeasible) as error:
        STRATEGIES["greedy"].plan(problem)
    found = re.search(
        r"needed is ([\d.]+ \wiB) more of cache on server 's1', or .*\d+ more servers? of",
        str(error.value),
    )
    assert found, error.value
    grown = grow_server(problem, "s1", round(1.001 * read_bytes(found[1])))
    assert share_of_cache(grown, "s0") == share_of_cache(problem, "s0")
    assert STRATEGIES["greedy"].plan(grown)


def test_reductions_that_do_not_suffice_are_said_to_have_been_tried() -> None:
    with pytest.raises(Infeasible, match=r"even reduced to int4 without 90 % .* are left over"):
        STRATEGIES["auto"].plan(problem_of([200_000], "int8", "int4", "sparse"))
