"""Which servers become the members of which stage, for the shortest cycle.

All chains of groups are tried where the servers are few or alike; otherwise those that regular
groups of sorted servers make, and what changes of the best of them lead to: that may miss the
best chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf

from partwise.distributor.arrangement import Arrangement, Arranger, build_arrangement
from partwise.distributor.balanced_runs import find_kinds
from partwise.distributor.chains import (
    Chain,
    count_chains,
    list_chains,
    list_changes,
    split_evenly,
)
from partwise.distributor.group_costs import GroupCosts
from partwise.distributor.group_shares import weigh_speed
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.errors import Infeasible

MAX_CHAINS = 300
"""Chains that are all tried: 4 unequal servers make 149, 8 alike 255."""
MAX_TRIED_MEMBERS = 12_000
"""Members of all the chains that changes lead to: about a second."""
NUM_BUILT = 3
"""Arrangements, the best ones, of which plans are made: with shares corrected, the second may be
the best."""
NUM_CLIMBS = 3
"""Regular chains, the best ones, from which changes start."""


def is_exact(problem: Problem) -> bool:
    """Whether `search_chains` tries every chain."""
    return count_chains(find_alike(problem), MAX_CHAINS) <= MAX_CHAINS


def find_alike(problem: Problem) -> list[int]:
    """A number for each server, the same where two can stand for each other in any plan: they
    cost the same, and so do their links."""
    hosts = [problem.cluster.server(name).host for name in problem.servers]
    if problem.cluster.links or len(set(hosts)) not in {1, len(hosts)}:
        return list(range(len(hosts)))
    return find_kinds(problem)


def search_plans(
    problem: Problem, strategy: str, streams: int, hints: Iterable[Plan] = ()
) -> list[Plan]:
    """Plans with a short cycle at ``streams`` streams, none where none is found that fits; the
    stages of ``hints`` are started from too."""
    costs = GroupCosts(problem, streams)
    if costs.count_least() is None:
        return []
    arranger = Arranger(costs)
    chains = [_list_groups(hint) for hint in hints]
    notes = []
    if not is_exact(problem):
        notes = [f"the stages of {len(problem.servers)} servers are searched, not proved best"]
    plans = []
    for found in search_chains(arranger, chains)[:NUM_BUILT]:
        try:
            plans.append(build_arrangement(costs, strategy, arranger.balance(found), notes))
        except Infeasible:
            # Costs are sums of many: a part that just fits by them may not quite.
            continue
    return plans


def _list_groups(plan: Plan) -> list[list[str]]:
    server_of = {part.name: part.server for part in plan.parts}
    return [[server_of[member.part] for member in stage.members] for stage in plan.stages]


def search_chains(
    arranger: Arranger, hints: Iterable[Sequence[Sequence[str]]] = ()
) -> list[Arrangement]:
    """The best arrangements found, best first; none where none fits. ``hints`` are chains to
    start from besides the regular ones."""
    problem = arranger.costs.problem
    kinds = find_alike(problem)
    search = _Search(arranger)
    if is_exact(problem):
        search.try_all(list_chains(kinds))
        return search.best()
    index = {name: i for i, name in enumerate(problem.servers)}
    search.try_all(tuple(tuple(index[n] for n in group) for group in hint) for hint in hints)
    search.try_all(_list_regular(arranger))
    for found in search.best()[:NUM_CLIMBS]:
        search.climb(found, kinds, MAX_TRIED_MEMBERS // NUM_CLIMBS)
    return search.best()


class _Search:
    """Chains tried so far, and what they led to."""

    def __init__(self, arranger: Arranger) -> None:
        self._arranger = arranger
        self._names = arranger.costs.problem.servers
        self._index = {name: i for i, name in enumerate(self._names)}
        self._tried: dict[Chain, Arrangement | None] = {}
        self._best_s = inf

    def best(self) -> list[Arrangement]:
        """What fits, the shortest cycle first."""
        found = [arrangement for arrangement in self._tried.values() if arrangement is not None]
        return sorted(found, key=lambda arrangement: arrangement.cycle_s)

    def try_all(self, chains: Iterable[Chain]) -> None:
        for chain in chains:
            self._try(chain)

    def climb(self, start: Arrangement, kinds: Sequence[int], budget: int) -> None:
        """Take the first change that helps, from it the next, while ``budget`` members last."""
        best, chain = start, self._number(start)
        changes = list_changes(chain, kinds)
        while budget > 0 and (changed := next(changes, None)) is not None:
            if changed in self._tried or len(changed) > len(self._arranger.costs.classes.of):
                continue
            budget -= sum(map(len, changed))
            found = self._try(changed)
            if found is not None and found.cycle_s < best.cycle_s:
                best, chain = found, changed
                changes = list_changes(chain, kinds)

    def _try(self, chain: Chain) -> Arrangement | None:
        if chain not in self._tried:
            groups = [tuple(self._names[i] for i in members) for members in chain]
            found = self._tried[chain] = self._arranger.arrange(groups, self._best_s)
            self._best_s = min(self._best_s, found.cycle_s if found else self._best_s)
        return self._tried[chain]

    def _number(self, found: Arrangement) -> Chain:
        return tuple(tuple(self._index[name] for name in group) for group in found.groups)


def _list_regular(arranger: Arranger) -> Iterator[Chain]:
    """Even groups of the first servers, sorted by speed, by memory, and as given."""
    costs = arranger.costs
    names = costs.problem.servers
    given = list(range(len(names)))
    setting = costs.settle([tuple(names)])
    speed, _ = weigh_speed(costs, tuple(names), setting)
    room = [min(costs.limits[name]) for name in names]
    for order in (
        sorted(given, key=lambda i: -speed[i]),
        sorted(given, key=lambda i: -room[i]),
        given,
    ):
        for server in order:
            yield ((server,),)
        for num_servers in _list_sizes(len(order)):
            for num_groups in _list_sizes(min(num_servers, len(costs.classes.of))):
                yield split_evenly(order[:num_servers], num_groups)


def _list_sizes(most: int) -> list[int]:
    """Numbers up to ``most``, further apart the larger they are."""
    sizes, size = {most}, 1
    while size < most:
        sizes |= {size, min(most, size + size // 2)}
        size *= 2
    return sorted(sizes, reverse=True)
