"""Runs of whole layers over some of a problem's servers, the slowest as fast as any cut allows.

A server is priced by who else computes (`segment_costs.py`): all that it is solved for. Where
fewer turn out to be used, what they take is less, and another cut may be better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from partwise.distributor.cache_fit import find_cache_limits
from partwise.distributor.min_max import Filling, RunCosts, split_min_max
from partwise.distributor.problem import Problem
from partwise.distributor.segment_costs import SegmentCosts
from partwise.distributor.server_order import find_best_order, is_exact

MAX_ROUNDS = 4
"""Times that servers are solved for because some stayed unused: two nearly always suffice."""
MAX_CHOICES = 64
"""Choices of servers that are all solved for: 6 unequal ones make 63, 8 alike 8."""
MAX_CHOSEN_LAYERS = 20_000
"""Layers of all these: about a second."""

Run = tuple[str, int, int]
"""A server and the layers ``start:stop`` that it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The runs of the servers used, in their order, and the seconds of the slowest in a pass;
    whether the order is proved best for these servers, or given."""

    runs: tuple[Run, ...]
    slowest_s: float
    is_exact: bool


def list_choices(problem: Problem) -> Iterator[tuple[str, ...]]:
    """All servers; where there are few, every choice of fewer too, of servers that are alike (and
    need not keep their order) the first."""
    yield problem.servers
    keep_order = problem.options.get("keep_order")
    kinds = list(range(len(problem.servers))) if keep_order else find_kinds(problem)
    alike = [[i for i, k in enumerate(kinds) if k == kind] for kind in sorted(set(kinds))]
    num_choices = 1
    for same in alike:
        num_choices *= len(same) + 1
    num_layers = len(problem.model.layers)
    if num_choices > MAX_CHOICES or num_choices * num_layers > MAX_CHOSEN_LAYERS:
        return
    for counts in product(*(range(len(same) + 1) for same in alike)):
        if 0 < sum(counts) < len(problem.servers):
            chosen = [i for same, n in zip(alike, counts, strict=True) for i in same[:n]]
            yield tuple(problem.servers[i] for i in sorted(chosen))


def solve_all(problem: Problem) -> list[Solution]:
    """`_solve` for each of `list_choices` that holds all layers."""
    limits = find_cache_limits(problem)
    cache_of = dict(zip(problem.servers, limits, strict=True)) if limits else None
    every = _measure(problem, cache_of, has_order=bool(problem.options.get("keep_order")))
    solved = [_solve(problem, servers, cache_of, every) for servers in list_choices(problem)]
    return [solution for solution in solved if solution is not None]


def _solve(
    problem: Problem, servers: Sequence[str], cache_of: dict[str, int] | None, like: SegmentCosts
) -> Solution | None:
    """The best runs found over ``servers``, none of which must be used; None where they do not
    hold all layers. Priced as what they are: a plan of the servers used alone."""
    best: Solution | None = None
    for _ in range(MAX_ROUNDS):
        here = replace(problem, servers=tuple(servers))
        found = _solve_once(here, cache_of, like)
        if found is None:
            break
        used = [server for server, _, _ in found.runs]
        if len(used) < len(servers):
            # In their given order, as all were.
            servers = [server for server in servers if server in used]
            fewer = replace(problem, servers=tuple(used))
            costs = _measure(fewer, cache_of, has_order=True, like=like)
            slowest_s = max(costs.seconds(i, *run[1:]) for i, run in enumerate(found.runs))
            found = replace(found, slowest_s=slowest_s)
        if best is None or found.slowest_s < best.slowest_s:
            best = found
        if len(used) == len(here.servers):
            break
    return best


def _solve_once(
    problem: Problem, cache_of: dict[str, int] | None, like: SegmentCosts
) -> Solution | None:
    """The best runs where all servers of ``problem`` are priced as used."""
    num_layers, num_servers = len(problem.model.layers), len(problem.servers)
    keep_order = bool(problem.options.get("keep_order"))
    costs = _measure(problem, cache_of, has_order=keep_order, like=like)
    is_proved = True
    filling: Filling | None
    if keep_order:
        filling = split_min_max(num_layers, costs.max_stop, costs.seconds, num_servers)
    else:
        runs = RunCosts(
            num_layers=num_layers,
            num_servers=num_servers,
            max_stop=costs.max_stop,
            seconds=costs.seconds,
        )
        kinds = find_kinds(problem)
        filling, is_proved = find_best_order(runs, kinds), is_exact(kinds)
    if filling is None:
        return None
    return Solution(
        runs=tuple(
            (problem.servers[i], start, stop)
            for i, (start, stop) in zip(filling.order, pairwise(filling.bounds), strict=True)
            if start < stop
        ),
        slowest_s=filling.slowest_s,
        is_exact=is_proved,
    )


def _measure(
    problem: Problem,
    cache_of: dict[str, int] | None,
    *,
    has_order: bool,
    like: SegmentCosts | None = None,
) -> SegmentCosts:
    limits = None if cache_of is None else [cache_of[name] for name in problem.servers]
    return SegmentCosts(
        problem.model,
        problem.cluster,
        problem.workload,
        problem.servers,
        limits,
        has_order=has_order,
        like=like,
    )


def find_kinds(problem: Problem) -> list[int]:
    """A number for each server, the same where any layers cost two servers the same."""
    cluster = problem.cluster
    servers = [cluster.server(name) for name in problem.servers]
    seen: list[object] = []
    kinds = []
    for server in servers:
        host = replace(cluster.host_of(server.name), name="")
        sharers = sorted(other.threads for other in servers if other.host == server.host)
        kind = (host, server.threads, server.memory_bytes, sharers)
        if kind not in seen:
            seen.append(kind)
        kinds.append(seen.index(kind))
    return kinds
