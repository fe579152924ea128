"""The strategy ``balanced`` where a layer is too large for a server: groups of them, balanced.

Each group holds every layer; the cuts between groups are exact for an order, of which a few
are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from partwise.distributor.arrangement import Arranger, build_arrangement
from partwise.distributor.group_costs import Group, GroupCosts
from partwise.distributor.group_shares import share_by_room, weigh_speed
from partwise.distributor.layer_classes import make_runs
from partwise.distributor.pipeline import Pipeline
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.splitting import describe_split, find_split

MANY = 1_000_000
"""Microbatches of a pipeline in which the slowest stage alone counts."""


def find_groups(problem: Problem, strategy: str) -> Plan | None:
    """The slowest group as fast as the cuts allow, in the best of the orders tried.

    Where no such groups hold the model, servers are filled in turn; None where layers are left
    over even so.
    """
    costs = GroupCosts(problem, problem.workload.streams)
    arranger = Arranger(costs, lambda _, __: Pipeline(num_microbatches=MANY))
    tried = [arranger.arrange(chain) for chain in _list_chains(costs)]
    found = [arrangement for arrangement in tried if arrangement is not None]
    if not found:
        return find_split(problem, strategy)
    best = arranger.balance(min(found, key=lambda arrangement: arrangement.cycle_s))
    notes = [describe_split(costs), f"{len(found)} orders of groups are tried, none proved best"]
    return build_arrangement(costs, strategy, best, notes)


def form_groups(costs: GroupCosts) -> list[Group]:
    """The fewest consecutive servers that hold any one layer, again and again; those left over
    at the end join the last."""
    groups: list[Group] = []
    group: Group = ()
    for name in costs.problem.servers:
        group = (*group, name)
        if _holds_any(costs, group):
            groups.append(group)
            group = ()
    if group and groups and _holds_any(costs, groups[-1] + group):
        groups[-1] += group
    return groups


def _holds_any(costs: GroupCosts, group: Group) -> bool:
    firsts = [costs.classes.of.index(i) for i in range(len(costs.classes.layers))]
    runs = make_runs(costs.classes, [(i, i + 1) for i in firsts])
    shares = share_by_room(costs, group)
    return bool((costs.fill(group, shares, runs) <= 1).all())


def _list_chains(costs: GroupCosts) -> Iterator[Sequence[Group]]:
    """The groups as given, then the fastest first, and ever fewer of these."""
    groups = form_groups(costs)[: len(costs.classes.of)]
    if not groups:
        return
    yield groups
    if costs.problem.options.get("keep_order"):
        return
    setting = costs.settle(groups)
    names = [name for group in groups for name in group]
    weights, _ = weigh_speed(costs, tuple(names), setting)
    speed = dict(zip(names, weights, strict=True))
    fastest = sorted(groups, key=lambda group: -np.sum([speed[name] for name in group]))
    for num_groups in range(len(groups), 0, -1):
        yield fastest[:num_groups]
