"""Servers filled in turn, several of them together where one cannot hold the next layer.

What is done with a layer that is too large for a server's memory or cache: its neurons are
split. It looks at no time; shares are in proportion to what each server has room for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partwise.distributor.arrangement import Arrangement, build_arrangement
from partwise.distributor.budgets import fill_budgets, find_budgets
from partwise.distributor.build import say_bytes
from partwise.distributor.cache_fit import find_cache_limits
from partwise.distributor.footprint import measure_footprint
from partwise.distributor.group_costs import Group, GroupCosts
from partwise.distributor.group_shares import share_by_room
from partwise.distributor.layer_classes import make_runs
from partwise.distributor.load import measure_layer
from partwise.distributor.member_shares import Shares
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem


def find_split(problem: Problem, strategy: str) -> Plan | None:
    """The servers filled in turn, as a plan; its notes say which layer is too large for what.
    None where layers are left over."""
    costs = GroupCosts(problem, problem.workload.streams)
    filled = fill_groups(costs)
    if filled.bounds[-1] < len(problem.model.layers):
        return None
    return build_arrangement(costs, strategy, filled, [describe_split(costs)])


def count_held(problem: Problem) -> int:
    """The layers that the servers hold, filled in turn by neurons where need be."""
    return fill_groups(GroupCosts(problem, problem.workload.streams)).bounds[-1]


def is_held(problem: Problem) -> bool:
    """Whether the servers, filled in turn with whole layers or by neurons, hold all of them."""
    num_layers = len(problem.model.layers)
    if fill_budgets(num_layers, find_budgets(problem), len(problem.servers))[-1] == num_layers:
        return True
    return count_held(problem) == num_layers


def fill_groups(costs: GroupCosts) -> Arrangement:
    """Each server filled as far as it goes, or the fewest from it on that hold the next layer
    together; a server that could hold no share of it stays unused. The last bound is below the
    number of layers where some are left over."""
    left, least = list(costs.problem.servers), _find_least(costs)
    groups: list[Group] = []
    bounds, shares = [0], []
    while left and bounds[-1] < len(costs.classes.of):
        start = bounds[-1]
        able = [name for name in left if least[name][costs.classes.of[start]] <= 1]
        found = _find_fewest(costs, able, start)
        if found is None:
            break
        group, members, stop = found
        groups.append(group)
        shares.append(members)
        bounds.append(stop)
        left = left[left.index(group[-1]) + 1 :]
    return Arrangement(groups=tuple(groups), bounds=tuple(bounds), shares=tuple(shares))


def is_too_large(costs: GroupCosts) -> bool:
    """Whether a layer is too large for every server."""
    return find_largest_layer(costs)[0] > max(_list_offered(costs.problem))


def describe_split(costs: GroupCosts) -> str:
    """Why layers are split, with the arithmetic of the largest."""
    needed, name = find_largest_layer(costs)
    offered = max(_list_offered(costs.problem))
    budget = "cache" if costs.problem.options.get("cache_fit") else "memory"
    reason = f"{name} takes {say_bytes(needed)}, the most that a server offers is"
    if needed <= offered:
        reason = f"whole layers do not fit in turn, though {name} takes {say_bytes(needed)} of"
    return (
        f"{reason} {say_bytes(offered)} of {budget}: layers are split by neurons among several"
        " servers"
    )


def find_largest_layer(costs: GroupCosts) -> tuple[float, str]:
    """Bytes of memory (with ``cache_fit``: read again and again) of the layer that takes most,
    and its name."""
    problem, workload = costs.problem, costs.problem.workload
    sizes = []
    for layer in costs.classes.layers:
        load = measure_layer(layer, workload.mlp_sparsity)
        if problem.options.get("cache_fit"):
            size = load.working_set_bytes(workload)
        else:
            hidden_size = problem.model.hidden_size
            size = measure_footprint(layer, load, hidden_size, workload).total_bytes
        sizes.append((size, layer.name))
    return max(sizes)


def _list_offered(problem: Problem) -> list[int]:
    """The memory of each server or, with ``cache_fit``, its cache."""
    memory = [problem.cluster.server(name).memory_bytes for name in problem.servers]
    return find_cache_limits(problem) or memory


def _find_least(costs: GroupCosts) -> dict[str, list[float]]:
    """Of each server, what a layer of each class takes of its memory or cache (1: all) where it
    owns no neuron of it: what every member of a stage holds."""
    layers = costs.classes.layers
    nothing = tuple((tuple((kind.name, 0) for kind in layer.neuron_kinds),) for layer in layers)
    firsts = [costs.classes.of.index(i) for i in range(len(layers))]
    # Alone, a layer that is tied to another is held whole; in one stage with all it is not.
    every = (0, len(costs.classes.of))
    runs = make_runs(costs.classes, [*((first, first + 1) for first in firsts), every])
    names = costs.problem.servers
    filled = costs.fill(names, nothing, runs)
    filled = np.minimum(filled[:-1], filled[-1])
    return {name: filled[:, i].tolist() for i, name in enumerate(names)}


def _find_fewest(
    costs: GroupCosts, names: Sequence[str], start: int
) -> tuple[Group, Shares, int] | None:
    """The fewest first of ``names`` that hold layer ``start`` together, their shares, and the
    stop that they reach; None where all of them do not."""
    low, high = 0, 1
    while (found := _fill_group(costs, names[:high], start)) is None:
        if high >= len(names):
            return None
        low, high = high, 2 * high
    high = min(high, len(names))
    while high - low > 1:
        middle = (low + high) // 2
        fewer = _fill_group(costs, names[:middle], start)
        if fewer is None:
            low = middle
        else:
            high, found = middle, fewer
    return found


def _fill_group(
    costs: GroupCosts, names: Sequence[str], start: int
) -> tuple[Group, Shares, int] | None:
    """The group, its shares, and the furthest stop from ``start`` that it holds; None where it
    holds no layer."""
    if not names:
        return None
    group = tuple(names)
    shares = share_by_room(costs, group)
    runs = make_runs(
        costs.classes, [(start, stop + 1) for stop in range(start, len(costs.classes.of))]
    )
    is_held = costs.fill(group, shares, runs).max(axis=1) <= 1
    if len(group) > 1:
        is_held &= costs.has_neurons(runs)
    return (group, shares, start + 1 + int(np.flatnonzero(is_held)[-1])) if is_held.any() else None
