"""What each part of one plan costs in one pass, and what crosses the links into it.

`cost.py` puts the parts together into a prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from partwise.cluster.description import Cluster, Server
from partwise.distributor.cache_fit import share_cache
from partwise.distributor.exchange import exchange_s
from partwise.distributor.footprint import count_tokens, find_owned, measure_loads
from partwise.distributor.load import Load
from partwise.distributor.pipeline import Pipeline, split_streams
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.senders import find_senders
from partwise.distributor.speed import Bound, Sharing, find_pass, measure_speed
from partwise.distributor.transfer import (
    PICK_BYTES,
    Hop,
    convert_s,
    find_link,
    hop_bytes,
    price_hops,
)
from partwise.distributor.workload import Workload
from partwise.model.description import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost:
    """One pass of one microbatch through one part, at the workload's streams.

    ``hop_s`` and ``hop_bytes`` are those of what it receives from the stage before;
    ``link_s`` is the part of ``hop_s`` in which the link can carry nothing else.
    ``cache_bytes`` is its share of its host's, which the cluster's servers there share evenly.
    """

    part: str
    server: str
    compute_s: float
    bound_by: Bound
    working_set_bytes: int
    cache_bytes: int | None
    exchange_s: float
    hop_s: float
    hop_bytes: int
    memory_bytes: int
    link_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds for which a pass keeps the part busy."""
        return self.compute_s + self.exchange_s


class Pricing:
    """The parts of ``plan``, ready to be priced for any workload."""

    def __init__(self, plan: Plan, model: Model, cluster: Cluster) -> None:
        self._plan, self._model, self._cluster = plan, model, cluster
        self._part = {part.name: part for part in plan.parts}
        self._server = {part.name: cluster.server(part.server) for part in plan.parts}
        self._sender = find_senders(plan)
        self._used_threads = _count_threads(list(self._server.values()))
        self._num_sharers = Counter(server.host for server in cluster.servers)
        self._codec = {
            (self._server[link.source].name, self._server[link.target].name): link.codec
            for link in plan.links
        }
        is_owned = find_owned(plan)
        self._loads: dict[str, list[Load]] = {
            member.part: measure_loads(
                model,
                range(stage.start, stage.stop),
                member,
                is_owned,
                self._part[member.part].mlp_sparsity,
            )
            for stage in plan.stages
            for member in stage.members
        }

    def price(self, workload: Workload) -> list[list[PartCost]]:
        """The costs of the members of each stage; their memory is left at 0."""
        rows, _ = self.split(workload)
        stages = self._plan.stages
        return [
            self._price_stage(stage, before, rows, workload)
            for before, stage in zip((None, *stages), stages, strict=False)
        ]

    def find_pipeline(self, costs: Sequence[Sequence[PartCost]], workload: Workload) -> Pipeline:
        """How the stages' ``costs`` make the time of a cycle: hops, and picks to the coordinator,
        come on top of them."""
        rows, num_microbatches = self.split(workload)
        hops_s = sum(max(cost.hop_s for cost in stage) for stage in costs)
        link = find_link(self._cluster, costs[-1][0].server, costs[0][0].server)
        back_s = link.transfer_s(rows * PICK_BYTES) if link else 0.0
        return Pipeline(
            num_microbatches=num_microbatches,
            fixed_s=hops_s + back_s,
            link_s=max(cost.link_s for stage in costs for cost in stage),
            is_filled=workload.is_training,
        )

    def split(self, workload: Workload) -> tuple[int, int]:
        """The rows of a microbatch and the number of them."""
        return split_passes(workload, len(self._plan.stages))

    def watts(self) -> float | None:
        """Power of the hosts in use; None where one gives none."""
        hosts = {s.host: self._cluster.host_of(s.name) for s in self._server.values()}
        given = [host.watts for host in hosts.values() if host.watts is not None]
        return sum(given) if len(given) == len(hosts) else None

    def _price_stage(
        self, stage: Stage, before: Stage | None, rows: int, workload: Workload
    ) -> list[PartCost]:
        parts = [member.part for member in stage.members]
        servers = [self._server[part] for part in parts]
        names = [server.name for server in servers]
        exchange = exchange_s(stage, self._model, self._cluster, names, rows, workload)
        hops = self._price_hops(before, parts, rows)
        own_threads = _count_threads(servers)
        return [
            self._price_part(part, hop, rows, workload, own_threads=own_threads, exchange=exchange)
            for part, hop in zip(parts, hops, strict=True)
        ]

    def _price_part(
        self,
        part: str,
        hop: Hop,
        rows: int,
        workload: Workload,
        *,
        own_threads: Counter[str],
        exchange: float,
    ) -> PartCost:
        server = self._server[part]
        host = self._cluster.host_of(server.name)
        own, loads = workload.reduced_as(self._part[part]), self._loads[part]
        used_threads = self._used_threads[host.name]
        busy_share = find_busy_share(workload, len(self._plan.stages))
        active_threads = count_active(own_threads[host.name], used_threads, busy_share)
        sharing = Sharing(active_threads=active_threads, used_threads=used_threads)
        kind = find_pass(self._model, own, rows)
        speed = measure_speed(host, server, own.precision, sharing, kind)
        working_set = sum(load.working_set_bytes(own) for load in loads)
        read_bytes = sum(load.read_bytes(own, rows) for load in loads) * own.num_passes
        macs = rows * sum(load.macs(own) for load in loads) * own.num_passes
        compute_s = speed.pass_s(read_bytes, working_set, macs, len(loads), own.num_transfers)
        return PartCost(
            part=part,
            server=server.name,
            compute_s=compute_s,
            bound_by=speed.find_bound(read_bytes, working_set, macs, compute_s),
            working_set_bytes=round(working_set),
            cache_bytes=share_cache(host, self._num_sharers[host.name]),
            exchange_s=exchange,
            hop_s=hop.seconds * own.num_transfers,
            hop_bytes=round(hop.num_bytes) * own.num_transfers,
            memory_bytes=0,
            link_s=hop.link_s * own.num_transfers,
        )

    def _price_hops(self, before: Stage | None, targets: Sequence[str], rows: int) -> list[Hop]:
        """What each of the parts ``targets`` of a stage receives; the first stage's receive tokens
        from the coordinator beside them."""
        if before is None:
            loopback = self._cluster.loopback_link
            seconds = loopback.transfer_s(rows * PICK_BYTES) if loopback else 0.0
            return [Hop(sender="", seconds=seconds, link_s=0.0, num_bytes=0.0)] * len(targets)

        def find_bytes(sender: str, target: str) -> float:
            return hop_bytes(self._model, rows, self._codec.get((sender, target), "fp32"))

        def convert(hop: Hop, target: str) -> Hop:
            packing_s = convert_s(self._model, rows, self._codec.get((hop.sender, target), "fp32"))
            return replace(hop, seconds=hop.seconds + packing_s)

        pairs = [
            (self._server[self._sender[part]].name, self._server[part].name) for part in targets
        ]
        hops = price_hops(self._cluster, pairs, find_bytes)
        return [convert(hop, target) for hop, (_, target) in zip(hops, pairs, strict=True)]


def split_passes(workload: Workload, num_stages: int) -> tuple[int, int]:
    """The rows of a microbatch and the number of them, over so many stages."""
    if workload.is_training:
        return count_tokens(workload), workload.streams
    return split_streams(workload.streams, num_stages)


def find_busy_share(workload: Workload, num_stages: int) -> float:
    """The share of the stages that compute at once: one for each microbatch in flight."""
    _, num_microbatches = split_streams(workload.streams, num_stages)
    in_flight = workload.streams if workload.is_training else num_microbatches
    return min(1.0, in_flight / num_stages)


def count_active(own_threads: int, used_threads: int, busy_share: float) -> int:
    """Threads of a host that compute at once: those of the busy stages, but at least of one."""
    return max(own_threads, round(used_threads * busy_share))


def _count_threads(servers: Sequence[Server]) -> Counter[str]:
    """Threads by host."""
    threads: Counter[str] = Counter()
    for server in servers:
        threads[server.host] += server.threads
    return threads
