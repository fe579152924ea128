"""Every strategy on random models and clusters: a plan that is proved, or what is missing."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from partwise.cluster.description import Cluster, LinkSpeed, Server
from partwise.distributor import decode_plan, encode_plan, verify_plan
from partwise.distributor.cache_fit import share_of_cache
from partwise.distributor.cost import predict
from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible
from partwise.model import Model
from support.planning import make_host

Posed = tuple[Problem, dict[str, int]]


def random_cluster(rng: random.Random) -> Cluster:
    """Up to 5 servers on up to 3 hosts; half have little memory. Some compute lower precisions."""
    lower = {"int8": make_host("any").rates["fp32"], "int4": make_host("any", 1.5).rates["fp32"]}
    has_lower = rng.random() < 0.5
    hosts = []
    for i in range(rng.randint(1, 3)):
        host = make_host(f"h{i}", rng.choice([1.0, 2.0]), cache_bytes=rng.choice([1 << 24, 20_000]))
        hosts.append(replace(host, rates={**host.rates, **lower}) if has_lower else host)
    return Cluster(
        hosts=tuple(hosts),
        servers=tuple(
            Server(
                name=f"s{i}",
                host=rng.choice(hosts).name,
                threads=rng.randint(1, 3),
                memory_bytes=rng.choice([1 << 30, 1 << 30, 100_000, 20_000]),
            )
            for i in range(rng.randint(1, 5))
        ),
        default_link=LinkSpeed(
            bandwidth_bytes_per_s=1e9, round_trip_s=rng.choice([1e-4, 1e-6, 1e-8])
        ),
    )


def random_options(rng: random.Random, model: Model, servers: tuple[str, ...]) -> dict[str, Any]:
    """What each strategy asks for, in a form that means something."""
    cuts = sorted(rng.sample(range(1, 100), len(servers) - 1))
    num_holders = min(len(servers), model.num_blocks)
    blocks = sorted(rng.sample(range(1, model.num_blocks), num_holders - 1))
    kinds = {kind.name: kind for layer in model.layers for kind in layer.neuron_kinds}
    return {
        "percentages": [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)],
        "layers": {
            server: (a, b)
            for server, a, b in zip(
                servers, [0, *blocks], [*blocks, model.num_blocks], strict=False
            )
        },
        "types": {
            kind: rng.sample(servers, rng.randint(1, len(servers)))
            for kind in ("attention", "mlp", "embedding", "head")
            if kind == "mlp" or rng.random() < 0.6
        },
        "ids": {
            "*": {name: {rng.choice(servers): f"0:{kind.count}"} for name, kind in kinds.items()}
        },
        "cache_fit": rng.random() < 0.3,
        "keep_order": rng.random() < 0.3,
        "goal": rng.choice(["latency", "throughput", "fewest-servers"]),
    }


@pytest.fixture(scope="module")
def problems(make_synthetic: Callable[[random.Random], Any]) -> list[Posed]:
    """A thousand models, each with a cluster, a workload and options, and the elements of each
    tensor of its files."""
    rng = random.Random(11)
    found = []
    for _ in range(1000):
        synthetic, cluster = make_synthetic(rng), random_cluster(rng)
        model = synthetic.model
        precisions = ["fp32"] * 4 + [p for p in ("int8", "int4") if p in cluster.hosts[0].rates]
        servers = tuple(server.name for server in cluster.servers)
        allowed = [word for word in ("int8", "int4", "sparse") if rng.random() < 0.2]
        workload = Workload(
            context_tokens=16,
            prefill_tokens=4,
            streams=rng.randint(1, 3),
            precision=rng.choice(precisions),
        )
        found.append(
            (
                Problem(
                    model=model,
                    cluster=cluster,
                    workload=workload,
                    servers=servers,
                    allow=frozenset(allowed),
                    options=random_options(rng, model, servers),
                ),
                synthetic.stored_elements,
            )
        )
    return found


def check(found: Plan, problem: Problem) -> None:
    """The verifier accepts it, it round-trips, and each part fits its server."""
    verify_plan(found, problem.model, problem.servers)
    assert decode_plan(encode_plan(found)) == found
    assert all("\n" not in note for note in found.notes)
    for part in found.parts:
        needed = part_footprint(found, problem.model, part.name, problem.workload).total_bytes
        assert needed <= problem.cluster.server(part.server).memory_bytes


def check_elements(found: Plan, stored: dict[str, int], problem: Problem) -> None:
    """All elements of the files are held: counted from the ranges and the headers, each split
    parameter once, each other one once for every part of its stage."""
    held: dict[str, dict[str, int]] = {}
    for stage in found.stages:
        for i in range(stage.start, stage.stop):
            for parameter in problem.model.layers[i].parameters:
                for member in stage.members:
                    axes = parameter.neurons
                    ranges = {
                        neuron
                        for share in member.neurons
                        if axes and share.kind == axes[0].kind and share.is_about(i)
                        for a, b in share.ranges
                        for neuron in range(a, b)
                    }
                    is_named = axes and any(
                        s.kind == axes[0].kind and s.is_about(i) for s in member.neurons
                    )
                    rows = parameter.shape[axes[0].axis] if axes else 1
                    width = sum(axis.width for axis in axes)
                    # An expert's tensor holds one neuron, whose number is not 0.
                    inside = {n for n in ranges if 0 <= (n - axes[0].first) * width < rows}
                    count = len(inside) * width if is_named else rows
                    elements = parameter.num_elements // rows * count
                    by_part = held.setdefault(parameter.stored_name, {})
                    # A tied parameter is met in both of its layers.
                    by_part[member.part] = max(by_part.get(member.part, 0), elements)
    split = {p.parameter for p in found.placements if p.rule == "owned"}
    stored_split = {p.stored_name for p in problem.model.parameters if p.name in split}
    assert held.keys() == stored.keys()
    for name, by_part in held.items():
        if name in stored_split:
            assert sum(by_part.values()) == stored[name], name
        else:
            # Replicated: the model says nothing of a split, or its stages hold it apart.
            assert sum(by_part.values()) >= stored[name], name


def check_budgets(found: Plan, problem: Problem) -> None:
    """Parts fit their caches where that is asked; layers are reduced as allowed, and only where
    they do not fit as they are."""
    if problem.options["cache_fit"]:
        for part in predict(found, problem.model, problem.cluster, problem.workload).parts:
            assert part.working_set_bytes <= share_of_cache(problem, part.server)
    asked = problem.workload.precision
    reduced = {(part.precision, part.mlp_sparsity) for part in found.parts} - {(asked, 0.0)}
    if reduced:
        [(precision, sparsity)] = reduced
        assert {precision} <= problem.allow | {asked}
        assert not sparsity or "sparse" in problem.allow
        assert "as allowed" in found.notes[0]
        with pytest.raises(Infeasible):
            STRATEGIES[found.strategy].plan(replace(problem, allow=frozenset()))


def check_sizes(found: Plan, problem: Problem, percentages: list[Fraction]) -> None:
    """Each kind in each layer is owned as asked, to less than a neuron, and exactly where the
    neurons divide."""
    (stage,) = found.stages
    if len(stage.members) == 1:
        return
    for i, layer in enumerate(problem.model.layers):
        for kind in layer.neuron_kinds:
            asked = dict(zip(problem.servers, percentages, strict=False))
            for member in stage.members:
                percentage = asked[found.part(member.part).server]
                shares = [s for s in member.neurons if s.kind == kind.name and s.is_about(i)]
                owned = sum(b - a for s in shares for a, b in s.ranges)
                granule = max((s.granule for s in shares), default=1)
                num_granules = -(-kind.count // granule)
                assert abs(owned - num_granules * granule * percentage / 100) < 2 * granule
                assert granule > 1 or abs(owned - kind.count * percentage / 100) < 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_plan_is_proved_or_the_message_says_what_is_missing(
    name: str, problems: list[Posed]
) -> None:
    planned = 0
    messages: list[str] = []
    for problem, stored in problems:
        try:
            found = STRATEGIES[name].plan(problem)
        except Infeasible as error:
            messages.append(str(error))
            lacks = "left over" in messages[-1] or " needs " in messages[-1]
            assert not lacks or "needed is " in messages[-1]
            assert not lacks or re.search(r"\d [GMK]iB more|more (memory|cache)", messages[-1])
            continue
        check(found, problem)
        check_elements(found, stored, problem)
        planned += 1
        if name in {"greedy", "balanced", "latency", "throughput", "auto"}:
            check_budgets(found, problem)
        if name == "count":
            check_sizes(found, problem, [Fraction(100, len(problem.servers))] * 5)
        if name == "percentage":
            check_sizes(found, problem, [Fraction(p) for p in problem.options["percentages"]])
    assert all("\n" not in text and any(map(str.isdigit, text)) for text in messages)
    assert planned > 200
    assert len(messages) > 80


def test_names_and_help_are_of_the_registry() -> None:
    for name, strategy in STRATEGIES.items():
        assert name == strategy.NAME
        assert strategy.HELP[0].islower()
        assert not strategy.HELP.endswith(".")
