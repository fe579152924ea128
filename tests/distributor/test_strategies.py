"""Every strategy on random models and clusters: a plan that is proved, or what is missing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from partwise.cluster.description import Cluster, LinkSpeed, Server
from partwise.distributor import decode_plan, encode_plan, verify_plan
from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible
from partwise.model import Model
from support.planning import make_host


def random_cluster(rng: random.Random) -> Cluster:
    """Up to 5 servers on up to 3 hosts; half have little memory."""
    hosts = [make_host(f"h{i}", rng.choice([1.0, 2.0])) for i in range(rng.randint(1, 3))]
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
        default_link=LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=1e-4),
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
    }


def check(found: Plan, problem: Problem) -> None:
    """The verifier accepts it, it round-trips, and each part fits its server."""
    verify_plan(found, problem.model, problem.servers)
    assert decode_plan(encode_plan(found)) == found
    for part in found.parts:
        needed = part_footprint(found, problem.model, part.name, problem.workload).total_bytes
        assert needed <= problem.cluster.server(part.server).memory_bytes


def test_a_plan_is_proved_or_the_message_says_what_is_missing(
    make_synthetic: Callable[[random.Random], Any],
) -> None:
    rng = random.Random(11)
    planned: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    messages: list[str] = []
    for _ in range(300):
        model, cluster = make_synthetic(rng).model, random_cluster(rng)
        servers = tuple(server.name for server in cluster.servers)
        for name in rng.sample(list(STRATEGIES), 3):
            problem = Problem(
                model=model,
                cluster=cluster,
                workload=Workload(context_tokens=16, prefill_tokens=4, streams=rng.randint(1, 3)),
                servers=servers,
                options=random_options(rng, model, servers),
            )
            try:
                found = STRATEGIES[name].plan(problem)
            except Infeasible as error:
                refused[name] += 1
                messages.append(str(error))
            else:
                check(found, problem)
                planned[name] += 1
    assert all("\n" not in text and any(map(str.isdigit, text)) for text in messages)
    for name in STRATEGIES:
        assert planned[name] > 12, (planned, refused)
        assert refused[name] > 2, (planned, refused)


def test_names_and_help_are_of_the_registry() -> None:
    for name, strategy in STRATEGIES.items():
        assert name == strategy.NAME
        assert strategy.HELP[0].islower()
        assert not strategy.HELP.endswith(".")
