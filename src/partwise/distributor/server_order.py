"""The order in which unequal servers take their runs of layers.

Exact where the servers are of few kinds (at most 8 servers, or many that are alike): the best
order under a limit is built up from the best for every smaller choice of servers. Otherwise a
search from sorted orders by exchanging two servers, which may miss the best one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product

from partwise.distributor.min_max import (
    Filling,
    RunCosts,
    fill_in_order,
    find_least,
    find_next_limit,
)

MAX_CHOICES = 4096
"""Choices of servers for which the exact search is taken: 8 unequal servers make 256."""
MAX_TRIED_RUNS = 20_000
"""Runs that the inexact search looks at: about a second."""


def find_best_order(costs: RunCosts, kinds: Sequence[int]) -> Filling | None:
    """The order and runs whose slowest is least; None where no order found holds all layers.

    ``kinds[i] == kinds[j]`` where servers i and j cost the same for every run.
    """
    if is_exact(kinds):
        return find_least(costs.num_layers, lambda limit_s: fill_any_order(costs, kinds, limit_s))
    return climb(costs, kinds)


def is_exact(kinds: Sequence[int]) -> bool:
    """Whether `find_best_order` proves its order best for servers of these kinds."""
    return math.prod(count + 1 for count in Counter(kinds).values()) <= MAX_CHOICES


def fill_any_order(costs: RunCosts, kinds: Sequence[int], limit_s: float) -> Filling:
    """Servers filled under ``limit_s`` in the order that covers most, by the fewest of them.

    ``next_limit_s`` holds for every order. Servers of one kind are used lowest index first.
    """
    alike = [[i for i, k in enumerate(kinds) if k == kind] for kind in sorted(set(kinds))]
    # covered[used] is the most layers that used[k] servers of the k-th kind can hold, and the
    # kind that comes last then. Successors of a choice come after it in the product's order.
    covered: dict[tuple[int, ...], tuple[int, int]] = {(0,) * len(alike): (0, -1)}
    next_limit_s = math.inf
    for used in product(*(range(len(servers) + 1) for servers in alike)):
        start = covered.get(used, (costs.num_layers, -1))[0]
        if start == costs.num_layers:
            continue
        for kind, servers in enumerate(alike):
            if used[kind] < len(servers):
                stop = costs.max_stop(servers[0], start, limit_s)
                longer_s = find_next_limit(costs, servers[0], start, stop, limit_s)
                next_limit_s = min(next_limit_s, longer_s)
                more = (*used[:kind], used[kind] + 1, *used[kind + 1 :])
                if more not in covered or stop > covered[more][0]:
                    covered[more] = (stop, kind)
    order, bounds = _trace(covered, alike)
    runs = zip(order, pairwise(bounds), strict=False)
    slowest_s = max((costs.seconds(i, *run) for i, run in runs if run[0] < run[1]), default=0.0)
    return Filling(order=order, bounds=bounds, slowest_s=slowest_s, next_limit_s=next_limit_s)


def _trace(
    covered: Mapping[tuple[int, ...], tuple[int, int]], alike: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order and bounds that cover most by the fewest servers, the others after them."""
    used = max(covered, key=lambda choice: (covered[choice][0], -sum(choice)))
    order, bounds = [], [covered[used][0]]
    unused = [i for kind, servers in enumerate(alike) for i in servers[used[kind] :]]
    while sum(used):
        kind = covered[used][1]
        used = (*used[:kind], used[kind] - 1, *used[kind + 1 :])
        order.append(alike[kind][used[kind]])
        bounds.append(covered[used][0])
    return (*order[::-1], *unused), (*bounds[::-1], *[bounds[0]] * len(unused))


def climb(costs: RunCosts, kinds: Sequence[int]) -> Filling | None:
    """The best of a few sorted orders, improved by exchanging two servers while that helps.

    An exchange helps when, just below the limit reached, the order covers more layers; when it
    covers all of them, a lower limit is reached.
    """
    best: Filling | None = None
    for start in _sorted_orders(costs):
        if best is None or _is_better(costs, start, best):
            best = _fill_best(costs, start) or best
    if best is None:
        return None
    order: tuple[int, ...] | None = best.order
    tries = iter(range(MAX_TRIED_RUNS // costs.num_servers + 1))
    while order is not None:
        limit_s = math.nextafter(best.slowest_s, 0.0)
        order = _exchange(costs, order, kinds, limit_s, tries)
        if order and _covers_all(costs, order, limit_s):
            best = _fill_best(costs, order) or best
    return best


def _exchange(
    costs: RunCosts,
    order: tuple[int, ...],
    kinds: Sequence[int],
    limit_s: float,
    tries: Iterator[int],
) -> tuple[int, ...] | None:
    """The first exchange that covers more under ``limit_s``; None: none does."""
    bounds = list(_cover(costs, order, limit_s))
    for (i, j), _ in zip(_pairs(order, kinds), tries, strict=False):
        exchanged = (*order[:i], order[j], *order[i + 1 : j], order[i], *order[j + 1 :])
        # What comes before both of them stays as it is, and what comes after them gets further
        # only from a start that is further.
        *_, start = _cover(costs, exchanged[i : j + 1], limit_s, bounds[i])
        if start > bounds[j + 1]:
            *_, num_covered = _cover(costs, exchanged[j + 1 :], limit_s, start)
            if num_covered > bounds[-1]:
                return exchanged
    return None


def _cover(costs: RunCosts, order: Sequence[int], limit_s: float, start: int = 0) -> Iterator[int]:
    """The bounds of the runs from ``start`` on, each as long as ``limit_s`` allows."""
    yield start
    for server in order:
        if start < costs.num_layers:
            start = costs.max_stop(server, start, limit_s)
        yield start


def _covers_all(costs: RunCosts, order: Sequence[int], limit_s: float) -> bool:
    *_, num_covered = _cover(costs, order, limit_s)
    return num_covered == costs.num_layers


def _is_better(costs: RunCosts, order: Sequence[int], best: Filling) -> bool:
    return _covers_all(costs, order, math.nextafter(best.slowest_s, 0.0))


def _fill_best(costs: RunCosts, order: Sequence[int]) -> Filling | None:
    return find_least(costs.num_layers, lambda limit_s: fill_in_order(costs, order, limit_s))


def _sorted_orders(costs: RunCosts) -> Iterator[list[int]]:
    """As given, the fastest first, the slowest first, the most capacious first."""
    given = list(range(costs.num_servers))
    yield given
    first_s = [costs.seconds(server, 0, costs.num_layers) for server in given]
    fastest = sorted(given, key=lambda server: first_s[server])
    yield fastest
    yield fastest[::-1]
    yield sorted(given, key=lambda server: -costs.max_stop(server, 0, math.inf))


def _pairs(order: Sequence[int], kinds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The places of two servers of different kinds, near ones first."""
    for distance in range(1, len(order)):
        for i in range(len(order) - distance):
            j = i + distance
            if kinds[order[i]] != kinds[order[j]]:
                yield i, j
