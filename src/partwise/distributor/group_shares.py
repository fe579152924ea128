"""Shares of neurons for the members of a group: by their speed, by what they have room for.

`GroupCosts` says what they cost; which are taken is decided in `arrangement.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partwise.distributor.group_costs import Group, GroupCosts, Setting
from partwise.distributor.layer_classes import make_runs
from partwise.distributor.member_shares import Shares, cap_weights

FULLEST = 0.95
"""Of a memory or cache, what shares within it take: KV groups come in so few granules that their
members hold more than their share."""
NUM_BALANCINGS = 6
"""Times that shares are corrected by the times they lead to: one suffices where time grows with
the share alone; caches, memory and whole granules ask for a few more."""


def weigh_speed(costs: GroupCosts, group: Group, setting: Setting) -> tuple[list[float], int]:
    """Weights that add up to 1, as fast as each member runs an even part of the model, and what
    an element of a token's keys and values counts beside one of the weights."""
    rows = costs.rows(setting.num_stages)
    read, working_set, macs, *_ = costs.sum_whole(rows) / len(costs.problem.servers)
    speeds = costs.find_speeds(group, setting)
    read_s = [speed.read_s(read, working_set) for speed in speeds]
    compute_s = [speed.compute_s(macs) for speed in speeds]
    weights = [1 / max(both) for both in zip(read_s, compute_s, strict=True)]
    # A pass reads the past of each row once; where it is bound by arithmetic, the past is little.
    kv_weight = _weigh_past(costs, rows / 2) if sum(read_s) > sum(compute_s) else 0
    return [weight / sum(weights) for weight in weights], kv_weight


def share_by_speed(costs: GroupCosts, group: Group, setting: Setting) -> Shares:
    """In proportion to how fast each member runs an even part of the model."""
    weights, kv_weight = weigh_speed(costs, group, setting)
    return costs.share(weights, kv_weight)


def share_by_room(costs: GroupCosts, group: Group) -> Shares:
    """In proportion to the memory, or the cache to be fitted, of each member."""
    return _share_room(costs, [min(costs.limits[name]) for name in group])


def share_within(costs: GroupCosts, group: Group, setting: Setting) -> Shares:
    """As by speed, but no member gets more than it can hold of an even stage."""
    whole = costs.sum_whole(costs.rows(setting.num_stages), setting.num_in_flight)
    *_, kept, cached, reused = whole
    room = []
    for name in group:
        memory_bytes, cache_bytes = costs.limits[name]
        share = min((memory_bytes - reused) / kept, cache_bytes / max(cached, 1.0))
        room.append(max(1e-9, FULLEST * share * setting.num_stages))
    weights, _ = weigh_speed(costs, group, setting)
    return _share_room(costs, cap_weights(weights, room))


def balance_shares(
    costs: GroupCosts, group: Group, run: tuple[int, int], setting: Setting
) -> Shares | None:
    """Shares under which the members' times for layers ``run`` (start, stop) come closest, as far
    as they fit; None where none does."""
    runs = make_runs(costs.classes, [run])
    first, kv_weight = weigh_speed(costs, group, setting)
    weights = np.array(first)
    best, best_s = None, np.inf
    for _ in range(NUM_BALANCINGS):
        shares = costs.share(weights.tolist(), kv_weight)
        price = costs.price(group, shares, setting, runs)
        if price.seconds[0] < best_s:
            best, best_s = shares, price.seconds[0]
        room = weights / np.maximum(price.filled[0], 1e-12)
        weights = weights / np.maximum(price.compute_s[0], 1e-12)
        capped = cap_weights((weights / weights.sum()).tolist(), room.tolist())
        weights = np.maximum(capped, 1e-9)
        weights /= weights.sum()
    return best


def _share_room(costs: GroupCosts, weights: Sequence[float]) -> Shares:
    return costs.share(weights, _weigh_past(costs, costs.problem.workload.num_caches))


def _weigh_past(costs: GroupCosts, num_contexts: float) -> int:
    """What an element of a token's keys and values counts, over so many whole contexts."""
    workload = costs.workload
    if workload.is_training:
        return 0
    past_bytes = num_contexts * workload.context_tokens * workload.kv_element_bytes
    return round(past_bytes / workload.element_bytes)
