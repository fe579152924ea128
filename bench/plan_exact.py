"""How good plans by layers are: against every cut, against exact solvers, against every order.

Instances are the tests' own: layers of known work over servers of known speed.
"""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

from partwise.distributor.budgets import fill_budgets
from partwise.distributor.min_max import find_least, split_min_max
from partwise.distributor.server_order import climb, fill_any_order, find_best_order
from support.exact import solve_slowest
from support.planning import Instance, least_by_table, random_instance

NUM_SMALL, NUM_MEDIUM, NUM_ORDERS = 2000, 200, 60
SAME = 1e-6
"""Relative: what the solver's own tolerance leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Instances compared, and those on which both sides agree."""

    compared: int
    equal: int

    @property
    def share(self) -> float:
        return self.equal / self.compared


def is_same(found_s: float, expected_s: float) -> bool:
    return found_s == expected_s or math.isclose(found_s, expected_s, rel_tol=SAME)


def compare_small(num_instances: int = NUM_SMALL) -> Tally:
    """Any order of up to 4 servers and every cut of up to 10 layers, against `find_best_order`."""
    rng, equal = random.Random(0), 0
    for _ in range(num_instances):
        num_servers = rng.randint(1, 4)
        instance = random_instance(rng, rng.randint(1, 10), num_servers)
        values = [least_by_table(instance, order) for order in permutations(range(num_servers))]
        expected_s = min((v for v in values if v is not None), default=math.inf)
        filling = find_best_order(instance.costs, instance.kinds)
        equal += is_same(filling.slowest_s if filling else math.inf, expected_s)
    return Tally(compared=num_instances, equal=equal)


def compare_medium(num_instances: int = NUM_MEDIUM) -> Tally:
    """Up to 40 layers over 8 servers in a fixed order, against integer programming (HiGHS)."""
    rng, equal = random.Random(1), 0
    for _ in range(num_instances):
        instance = random_instance(rng, rng.randint(11, 40), rng.randint(4, 8))
        costs = instance.costs
        filling = split_min_max(costs.num_layers, costs.max_stop, costs.seconds, costs.num_servers)
        found_s = filling.slowest_s if filling else math.inf
        equal += is_same(found_s, solve_slowest(instance))
    return Tally(compared=num_instances, equal=equal)


def compare_greedy(num_instances: int = NUM_SMALL) -> Tally:
    """Parts that greedy fills, against the fewest of any cut into parts of one budget."""
    rng, equal = random.Random(2), 0
    for _ in range(num_instances):
        sizes = [rng.choice([0, 1, 2, 5, 9]) for _ in range(rng.randint(1, 30))]
        budget = rng.randint(9, 20)

        def fits(_: int, start: int, stop: int) -> bool:
            return sum(sizes[start:stop]) <= budget  # noqa: B023

        bounds = fill_budgets(len(sizes), fits, len(sizes))
        equal += sum(a < b for a, b in pairwise(bounds)) == count_fewest(sizes, budget)
    return Tally(compared=num_instances, equal=equal)


def count_fewest(sizes: list[int], budget: int) -> int:
    """By a table over all cuts."""
    fewest = [0] + [len(sizes) + 1] * len(sizes)
    for stop in range(1, len(sizes) + 1):
        for start in range(stop):
            if sum(sizes[start:stop]) <= budget:
                fewest[stop] = min(fewest[stop], fewest[start] + 1)
    return fewest[-1]


def measure_gaps(num_instances: int = NUM_ORDERS) -> list[float]:
    """How much slower the searched order is than the best of all, in percent, where servers are
    so many and unequal that `balanced` would search: 20 to 40 layers over 9 to 10 of them."""
    rng = random.Random(3)
    gaps: list[float] = []
    while len(gaps) < num_instances:
        num_servers = rng.randint(9, 10)
        instance = make_unequal(rng, rng.randint(20, 40), num_servers)
        costs, kinds = instance.costs, range(num_servers)
        best = find_least(
            costs.num_layers,
            lambda limit_s: fill_any_order(costs, kinds, limit_s),  # noqa: B023
        )
        near = climb(costs, kinds)
        if best is not None and near is not None:
            gaps.append(100 * (near.slowest_s / best.slowest_s - 1))
    return gaps


def make_unequal(rng: random.Random, num_layers: int, num_servers: int) -> Instance:
    """No two servers alike; some hold few layers."""
    instance = random_instance(rng, num_layers, num_servers)
    return replace(instance, speeds=tuple(rng.uniform(1, 4) for _ in range(num_servers)))


def describe_gaps(gaps: list[float]) -> str:
    same = sum(gap < 1e-6 for gap in gaps)
    return (
        f"median {statistics.median(gaps):.2f} %, worst {max(gaps):.2f} %,"
        f" best order found {same} of {len(gaps)} times"
    )
