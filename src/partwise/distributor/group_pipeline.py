"""The pipeline that a chain of groups makes, as `pricing.py` has it for the parts of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from partwise.distributor.group_costs import Group, GroupCosts
from partwise.distributor.pipeline import Pipeline, split_streams
from partwise.distributor.transfer import PICK_BYTES, find_link


def find_pipeline(costs: GroupCosts, groups: Sequence[Group]) -> Pipeline:
    """The pipeline of stages with the members ``groups``, at the streams of ``costs``."""
    workload, cluster = costs.workload, costs.problem.cluster
    rows = costs.rows(len(groups))
    hops = [costs.hop_s(before, after, rows) for before, after in pairwise(groups)]
    there_s = sum(hop_s for hop_s, _ in hops)
    if cluster.loopback_link is not None:
        there_s += cluster.loopback_link.transfer_s(rows * PICK_BYTES)
    back = find_link(cluster, groups[-1][0], groups[0][0])
    back_s = back.transfer_s(rows * PICK_BYTES) if back else 0.0
    streams = workload.streams
    is_filled = workload.is_training
    return Pipeline(
        num_microbatches=streams if is_filled else split_streams(streams, len(groups))[1],
        fixed_s=there_s * workload.num_transfers + back_s,
        link_s=max((link_s for _, link_s in hops), default=0.0) * workload.num_transfers,
        is_filled=is_filled,
    )
