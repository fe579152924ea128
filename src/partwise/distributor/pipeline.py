"""What a chain of stages adds up to: hops between them, and the time of a cycle.

As `cost.py` puts the parts of a plan together, from the stages' own times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from partwise.distributor.group_costs import Group, GroupCosts
from partwise.distributor.pricing import split_streams
from partwise.distributor.transfer import PICK_BYTES, find_link


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """How stages' times make the time of a cycle.

    ``num_microbatches`` pass through in a cycle, each of which takes ``fixed_s`` besides the
    stages; no microbatch follows another sooner than ``link_s``. With ``is_filled`` (training)
    each cycle fills the pipeline and drains it.
    """

    num_microbatches: int
    fixed_s: float = 0.0
    link_s: float = 0.0
    is_filled: bool = False

    def cycle_s(self, slowest_s: float, stages_s: float) -> float:
        """Seconds of a cycle, from the slowest stage and the sum over all."""
        slowest_s, trip_s = max(slowest_s, self.link_s), stages_s + self.fixed_s
        if self.is_filled:
            return (self.num_microbatches - 1) * slowest_s + trip_s
        return max(self.num_microbatches * slowest_s, trip_s)


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
