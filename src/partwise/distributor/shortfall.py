"""What is missing where layers do not fit their servers, in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from partwise.distributor.build import GIB
from partwise.distributor.cache_fit import find_cache_limits
from partwise.distributor.problem import Problem
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.workload import ELEMENT_BYTES

LOWER_PRECISIONS = ("fp16", "int8", "int4")
MAX_MORE = 256
"""More servers than this are not proposed."""

IsHeld = Callable[[Problem], bool]
"""Whether the servers of a problem can hold its layers."""


def say_bytes(num_bytes: float) -> str:
    """Bytes for people, in the largest unit that leaves a whole part."""
    units = ("GiB", GIB), ("MiB", GIB >> 10), ("KiB", GIB >> 20)
    unit, size = next((u for u in units if num_bytes >= u[1]), units[-1])
    return f"{num_bytes / size:,.2f} {unit}"


def describe_shortfall(problem: Problem, left: int, is_held: IsHeld) -> str:
    """A line on the layers from ``left`` on, which the servers filled in turn do not hold, and
    what would hold them."""
    model, limits = problem.model, find_cache_limits(problem)
    num_layers = len(model.layers)
    costs = SegmentCosts(model, problem.cluster, problem.workload, problem.servers)
    measure = costs.bytes if limits is None else costs.working_set_bytes
    memory = [problem.cluster.server(name).memory_bytes for name in problem.servers]
    offered, budget = limits or memory, "memory" if limits is None else "cache"
    left_bytes = measure(left, num_layers)
    remedies = [] if limits else [f"{say_bytes(left_bytes)} more"]
    remedies += [
        *_find_precision(problem, is_held),
        *_count_more(problem, offered, left_bytes, is_held),
    ]
    servers = "1 server offers" if len(offered) == 1 else f"{len(offered)} servers offer"
    return (
        f"{model.describe_range(left, num_layers)} of {model.name} ({say_bytes(left_bytes)} of"
        f" {say_bytes(measure(0, num_layers))}) fit the {budget} of no server: {servers}"
        f" {say_bytes(sum(offered))} of {budget}; needed is"
        f" {', or '.join(remedies) or f'more {budget} in each'}"
    )


def _find_precision(problem: Problem, is_held: IsHeld) -> list[str]:
    """The highest lower precision at which the servers can hold the model, if they compute it."""
    hosts = [problem.cluster.host_of(name) for name in problem.servers]
    for precision in LOWER_PRECISIONS:
        is_lower = ELEMENT_BYTES[precision] < problem.workload.element_bytes
        if is_lower and all(precision in host.rates for host in hosts):
            workload = replace(problem.workload, precision=precision)
            if is_held(replace(problem, workload=workload)):
                return [precision]
    return []


def _count_more(
    problem: Problem, offered: list[int], left_bytes: float, is_held: IsHeld
) -> list[str]:
    """The fewest more servers like the roomiest that hold what is left; none where many do not."""
    roomiest = max(range(len(offered)), key=lambda i: offered[i])
    low, high = 0, math.ceil(left_bytes / offered[roomiest])
    if high > MAX_MORE:
        return []
    while not is_held(_add_servers(problem, roomiest, offered[roomiest], high)):
        low, high = high, 2 * high
        if high > MAX_MORE:
            return []
    while high - low > 1:
        middle = (low + high) // 2
        if is_held(_add_servers(problem, roomiest, offered[roomiest], middle)):
            high = middle
        else:
            low = middle
    # Groups form otherwise with one server less: now and then that suffices too.
    while high > 1 and is_held(_add_servers(problem, roomiest, offered[roomiest], high - 1)):
        high -= 1
    noun = "server" if high == 1 else "servers"
    return [f"{high} more {noun} of {say_bytes(offered[roomiest])}"]


def _add_servers(problem: Problem, like: int, offered: int, num_more: int) -> Problem:
    """The problem with more servers like one of its own, each on a host of its own."""
    cluster = problem.cluster
    server = cluster.server(problem.servers[like])
    host = cluster.host_of(server.name)
    if problem.options.get("cache_fit"):
        host = replace(host, cache_bytes=offered)
    names = [f"{server.name} again {i}" for i in range(num_more)]
    more = replace(
        cluster,
        hosts=(*cluster.hosts, *(replace(host, name=name) for name in names)),
        servers=(*cluster.servers, *(replace(server, name=n, host=n) for n in names)),
    )
    return replace(problem, cluster=more, servers=(*problem.servers, *names))
