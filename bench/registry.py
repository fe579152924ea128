"""The registry of a llama of 405 billion parameters over 128 servers: how long one part takes to
compile its routes, and how long until all have a new plan.

The plans: a stage a server; 16 stages of 8 members, whose JSON is longer. Their subscribers are
processes of this machine, over TCP on loopback, and share its processors: nearly all of the time to
prepare a plan is that they decode and verify it one after the other, which servers of their own
would do at once (`prepare_*_one_ms` is what one takes).

    python bench/registry.py [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import msgspec

from harness import ROOT, has_defaults, report

# The model is that of the tests: what is measured is what is proved.
sys.path.insert(0, str(ROOT / "tests"))

from partwise.cli.format import format_table
from partwise.distributor.build import identify, join
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Part, Plan, Stage, decode_plan
from partwise.distributor.shares import share_out, split_by_weight
from partwise.distributor.verify import verify_plan
from partwise.model import Model
from partwise.registry.directory import Directory
from partwise.registry.routes import compile_routes
from subscribers import Subscribers
from support.large import llama_405b

NUM_SERVERS = 128
STAGES = (128, 16)
ROUNDS, WARM_ROUNDS = 20, 2
HEADERS = (
    "stages",
    "routes s",
    "plan bytes",
    "one prepares ms",
    "all prepare p50 ms",
    "p99 ms",
    "switch p99 ms",
)


def make_plan(model: Model, num_stages: int) -> Plan:
    """So many stages of equal numbers of layers and of members with equal shares."""
    num_layers, num_members = len(model.layers), NUM_SERVERS // num_stages
    names = [f"part{i}" for i in range(NUM_SERVERS)]
    choose = split_by_weight([1] * num_members, {})
    stages = []
    for i in range(num_stages):
        layers = num_layers * i // num_stages, num_layers * (i + 1) // num_stages
        own = names[i * num_members : (i + 1) * num_members]
        members = share_out(model, layers, own, choose, {})
        stages.append(Stage(start=layers[0], stop=layers[1], members=members))
    return Plan(
        strategy="equal shares",
        model=identify(model),
        stages=tuple(stages),
        parts=tuple(Part(name=name, server=f"server{i}") for i, name in enumerate(names)),
        links=join(stages),
        placements=place_parameters(model, stages),
    )


def time_routes(plan: Plan, model: Model) -> float:
    """Seconds of the part that takes longest: its directory, a look-up in each layer, its
    routes."""
    slowest_s = 0.0
    for part in plan.parts:
        start_s = time.perf_counter()
        directory = Directory(plan=plan, model=model)
        for number, layer in enumerate(model.layers):
            for kind in layer.neuron_kinds:
                directory.locate(number, kind.count - 1, kind.name)
        compile_routes(plan, model, part.name)
        slowest_s = max(slowest_s, time.perf_counter() - start_s)
    return slowest_s


def time_preparing(plan: Plan, model: Model) -> float:
    """Processor seconds in which a subscriber decodes and verifies a plan, the median of a few."""
    data, seconds = msgspec.json.encode(plan), []
    for _ in range(15):
        start_s = time.process_time()
        verify_plan(decode_plan(data), model)
        seconds.append(time.process_time() - start_s)
    return statistics.median(seconds)


def time_changes(plan: Plan, model: Model, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds until each subscriber has prepared each new version, and knows its step."""
    prepared_ms: list[float] = []
    switched_ms: list[float] = []
    with Subscribers(plan, model) as subscribers:
        for number in range(1, WARM_ROUNDS + rounds + 1):
            new = msgspec.structs.replace(plan, plan_version=plan.plan_version + number)
            prepared_s, switched_s = subscribers.change(new)
            if number <= WARM_ROUNDS:  # processes have just been forked: memory is copied
                continue
            prepared_ms += [1e3 * seconds for seconds in prepared_s]
            switched_ms += [1e3 * seconds for seconds in switched_s]
    return prepared_ms, switched_ms


def find_p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    model = llama_405b()
    figures: dict[str, Any] = {}
    rows = []
    for num_stages in STAGES:
        plan = make_plan(model, num_stages)
        key = f"{num_stages}_stages"
        routes_s = time_routes(plan, model)
        prepared_ms, switched_ms = time_changes(plan, model, args.rounds)
        figures |= {
            f"routes_{key}_s": routes_s,
            f"plan_{key}_bytes": len(msgspec.json.encode(plan)),
            f"prepare_{key}_one_ms": 1e3 * time_preparing(plan, model),
            f"prepare_{key}_p50_ms": statistics.median(prepared_ms),
            f"prepare_{key}_p99_ms": find_p99(prepared_ms),
            f"switch_{key}_p99_ms": find_p99(switched_ms),
        }
        rows.append((num_stages, *(figures[name] for name in list(figures)[-6:])))
    print(format_table(HEADERS, rows))
    report("registry", figures, is_default=has_defaults(parser, args))


if __name__ == "__main__":
    main()
