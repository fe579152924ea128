"""What the members of one stage exchange in a pass: partial sums, and the head's candidates.

Two members send each other theirs; more reduce-scatter and gather again, in which each of them
sends a piece to every other one, twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from partwise.cluster.description import Cluster
from partwise.distributor.placement import split_kinds
from partwise.distributor.plan import Stage
from partwise.distributor.transfer import CANDIDATE_BYTES, find_cards, hop_bytes, message_s
from partwise.distributor.workload import Workload
from partwise.model.description import LayerKind, Model

Count = TypeVar("Count", float, NDArray[np.float64])
"""One number, or one for each of many runs of layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What it costs that each of ``num_members`` sends something to every other one.

    ``way_s`` is the longest way. ``messages_s`` is what sending one message to each other member
    and taking one from it keeps a member. ``byte_s`` are the seconds for a byte in each of these
    messages, on the busiest of what carries them: of members that share a host the bytes to and
    from other hosts add up on its card.
    """

    num_members: int
    way_s: float
    messages_s: float
    byte_s: float

    def send_s(self, num_bytes: float) -> float:
        """Seconds until all have ``num_bytes`` from each other one."""
        return self.way_s + self.messages_s + num_bytes * self.byte_s

    def sum_s(self, num_bytes: float) -> float:
        """Seconds of one sum of ``num_bytes`` over all members."""
        if self.num_members == 2:
            return self.send_s(num_bytes)
        return 2 * self.send_s(num_bytes / self.num_members)

    def total_s(self, num_sums: Count, num_picks: Count, model: Model, rows: int) -> Count:
        """Seconds of so many sums of the hidden state and exchanges of candidates."""
        sum_s = self.sum_s(hop_bytes(model, rows, "fp32"))
        return num_sums * sum_s + num_picks * self.send_s(rows * CANDIDATE_BYTES)


def join_members(cluster: Cluster, servers: Sequence[str]) -> Exchange:
    """The exchange among at least two ``servers``."""
    way_s, byte_s = (_join_pairs if cluster.links else _join_alike)(cluster, servers)
    slowest_s = max(message_s(cluster.host_of(name)) for name in servers)
    return Exchange(
        num_members=len(servers),
        way_s=way_s,
        messages_s=(len(servers) - 1) * slowest_s,
        byte_s=byte_s,
    )


def count_exchanges(kind: LayerKind, workload: Workload) -> tuple[int, int]:
    """Sums of the hidden state and exchanges of candidates in a pass, for each kind of neuron that
    is split in a layer.

    Training sums partial hidden states at each computing forwards, and their gradients once on the
    way back. A table's members need nothing of each other for its gradient; a head's exchange
    what a softmax over all rows asks, as little as candidates, and sum the hidden's gradient.
    """
    forwards = workload.num_forwards
    match kind:
        case LayerKind.HEAD:
            return int(workload.is_training), forwards
        case LayerKind.EMBEDDING:
            return forwards, 0
        case _:
            return forwards + workload.is_training, 0


def exchange_s(
    stage: Stage,
    model: Model,
    cluster: Cluster,
    servers: Sequence[str],
    rows: int,
    workload: Workload,
) -> float:
    """Seconds that the members of ``stage``, on ``servers``, exchange in a pass of ``rows``.

    Every kind of neuron that a layer splits ends in a sum or in candidates (`count_exchanges`),
    as if all of the hidden state were exchanged: connectivity that spares some of it is not seen.
    """
    if len(servers) < 2:
        return 0.0
    sums = picks = 0
    for i in range(stage.start, stage.stop):
        layer = model.layers[i]
        num_split = len({kind.name for kind in layer.neuron_kinds} & split_kinds(stage, i))
        more_sums, more_picks = count_exchanges(layer.kind, workload)
        sums += num_split * more_sums
        picks += num_split * more_picks
    return join_members(cluster, servers).total_s(sums, picks, model, rows)


def _join_alike(cluster: Cluster, servers: Sequence[str]) -> tuple[float, float]:
    """The longest way and seconds a byte, where only one host or several makes a difference."""
    counts = Counter(cluster.server(name).host for name in servers)
    way_s = byte_s = 0.0
    if len(counts) > 1:
        crossing = max(n * (len(servers) - n) for n in counts.values())
        way_s = cluster.default_link.round_trip_s / 2
        byte_s = crossing / cluster.default_link.bandwidth_bytes_per_s
    most = max(counts.values())
    if most > 1:
        inside = cluster.loopback_link or cluster.default_link
        way_s = max(way_s, inside.round_trip_s / 2)
        byte_s = max(byte_s, (most - 1) / inside.bandwidth_bytes_per_s)
    return way_s, byte_s


def _join_pairs(cluster: Cluster, servers: Sequence[str]) -> tuple[float, float]:
    """The same, where pairs have links of their own."""
    way_s = 0.0
    busy_s: defaultdict[tuple[str, str], float] = defaultdict(float)
    for sender in servers:
        for target in servers:
            if sender != target:
                link = cluster.link(sender, target)
                way_s = max(way_s, link.round_trip_s / 2)
                for card in find_cards(cluster, sender, target):
                    busy_s[card] += 1 / link.bandwidth_bytes_per_s
    return way_s, max(busy_s.values())
