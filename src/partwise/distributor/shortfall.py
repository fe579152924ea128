"""What is missing where layers do not fit their servers, in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from partwise.distributor.build import GIB
from partwise.distributor.problem import Problem
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.workload import ELEMENT_BYTES

LOWER_PRECISIONS = ("fp16", "int8", "int4")


def describe_shortfall(
    problem: Problem, fits: Callable[[int, int, int], bool], bounds: Sequence[int]
) -> str:
    """A line on the layers left over, and what would hold them.

    ``fits(server, start, stop)`` says what servers (by index) can hold, ``bounds`` how they
    were filled: layers from the last bound on are left.
    """
    model, num_layers, left = problem.model, len(problem.model.layers), bounds[-1]
    costs = SegmentCosts(model, problem.cluster, problem.workload, problem.servers)
    left_bytes = costs.bytes(left, num_layers)
    offered = [problem.cluster.server(name).memory_bytes for name in problem.servers]
    budget = "cache" if problem.options.get("cache_fit") else "memory"
    servers = "1 server" if len(offered) == 1 else f"{len(offered)} servers"
    return (
        f"{model.describe_range(left, num_layers)} of {model.name}"
        f" ({left_bytes / GIB:.2f} of {costs.bytes(0, num_layers) / GIB:.2f} GiB) fit the {budget}"
        f" of no server: {servers} {'offers' if len(offered) == 1 else 'offer'}"
        f" {sum(offered) / GIB:.2f} GiB of memory; needed is"
        f" {_list_remedies(problem, fits, left, left_bytes)}"
    )


def _list_remedies(
    problem: Problem, fits: Callable[[int, int, int], bool], left: int, left_bytes: int
) -> str:
    remedies = []
    if not problem.options.get("cache_fit"):
        remedies.append(f"{left_bytes / GIB:.2f} GiB more")
        remedies += _find_precision(problem)
    memory = [problem.cluster.server(name).memory_bytes for name in problem.servers]
    largest = max(range(len(memory)), key=lambda i: memory[i])
    num_more = _count_more(len(problem.model.layers), fits, largest, left)
    if num_more is not None:
        noun = "server" if num_more == 1 else "servers"
        remedies.append(f"{num_more} more {noun} of {memory[largest] / GIB:.2f} GiB")
    else:
        remedies.append("a layer split by neurons (strategy count)")
    return ", or ".join(remedies)


def _count_more(
    num_layers: int, fits: Callable[[int, int, int], bool], server: int, left: int
) -> int | None:
    """How many more servers like ``server`` hold the layers left; None where none does."""
    num_more, start = 0, left
    while start < num_layers:
        stop = start
        while stop < num_layers and fits(server, start, stop + 1):
            stop += 1
        if stop == start:
            return None
        num_more, start = num_more + 1, stop
    return num_more


def _find_precision(problem: Problem) -> list[str]:
    """The highest lower precision at which the servers can hold the model, if they compute it."""
    hosts = [problem.cluster.host_of(name) for name in problem.servers]
    for precision in LOWER_PRECISIONS:
        is_lower = ELEMENT_BYTES[precision] < problem.workload.element_bytes
        if is_lower and all(precision in host.rates for host in hosts):
            lower = replace(problem, workload=replace(problem.workload, precision=precision))
            if _is_held(lower):
                return [precision]
    return []


def _is_held(problem: Problem) -> bool:
    """Whether the servers, filled in turn, can hold all layers."""
    costs = SegmentCosts(problem.model, problem.cluster, problem.workload, problem.servers)
    start, num_layers = 0, len(problem.model.layers)
    for name in problem.servers:
        memory_bytes, stop = problem.cluster.server(name).memory_bytes, start
        while stop < num_layers and costs.bytes(start, stop + 1) <= memory_bytes:
            stop += 1
        start = stop
    return start == num_layers
