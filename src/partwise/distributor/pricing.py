"""What each part of one plan costs in one pass, and what crosses the links into it.

`cost.py` puts the parts together into a prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from partwise.cluster.description import Cluster, Server
from partwise.distributor.footprint import count_tokens, find_owned, measure_loads
from partwise.distributor.load import Load
from partwise.distributor.plan import Plan, Stage
from partwise.distributor.speed import Bound, Sharing, find_pass, measure_speed, spend
from partwise.distributor.transfer import PICK_BYTES, convert_s, exchange_s, find_link, hop_bytes
from partwise.distributor.workload import Workload
from partwise.model.description import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost:
    """One pass of one microbatch through one part, at the workload's streams.

    ``hop_s`` and ``hop_bytes`` are those of what it receives from the stage before;
    ``link_s`` is the part of ``hop_s`` in which the link can carry nothing else.
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


def split_streams(streams: int, num_stages: int) -> tuple[int, int]:
    """The rows of the largest microbatch and the number of them: as even as the stages ask."""
    rows = -(-streams // num_stages)
    return rows, -(-streams // rows)


class Pricing:
    """The parts of ``plan``, ready to be priced for any workload."""

    def __init__(self, plan: Plan, model: Model, cluster: Cluster) -> None:
        self._plan, self._model, self._cluster = plan, model, cluster
        self._part = {part.name: part for part in plan.parts}
        self._server = {part.name: cluster.server(part.server) for part in plan.parts}
        self._used_threads = _count_threads(list(self._server.values()))
        self._codec = {(link.source, link.target): link.codec for link in plan.links}
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
        rows, _ = split_streams(workload.streams, len(self._plan.stages))
        if workload.is_training:
            rows = count_tokens(workload)
        stages = self._plan.stages
        return [
            self._price_stage(stage, before, rows, workload)
            for before, stage in zip((None, *stages), stages, strict=False)
        ]

    def trip_s(self, costs: Sequence[Sequence[PartCost]], rows: int) -> float:
        """Seconds of one microbatch through all stages, and of its picks to the coordinator."""
        seconds = sum(
            max(cost.busy_s for cost in stage) + max(cost.hop_s for cost in stage)
            for stage in costs
        )
        link = find_link(self._cluster, costs[-1][0].server, costs[0][0].server)
        return seconds + (link.transfer_s(rows * PICK_BYTES) if link else 0.0)

    def watts(self) -> float | None:
        """Power of the hosts in use; None where one gives none."""
        hosts = {s.host: self._cluster.host_of(s.name) for s in self._server.values()}
        given = [host.watts for host in hosts.values() if host.watts is not None]
        return sum(given) if len(given) == len(hosts) else None

    def _price_stage(
        self, stage: Stage, before: Stage | None, rows: int, workload: Workload
    ) -> list[PartCost]:
        servers = [self._server[member.part].name for member in stage.members]
        exchange = exchange_s(stage, self._model, self._cluster, servers, rows)
        exchange *= workload.num_transfers
        own_threads = _count_threads([self._server[member.part] for member in stage.members])
        return [
            self._price_part(
                member.part, before, rows, workload, own_threads=own_threads, exchange=exchange
            )
            for member in stage.members
        ]

    def _price_part(
        self,
        part: str,
        before: Stage | None,
        rows: int,
        workload: Workload,
        *,
        own_threads: Counter[str],
        exchange: float,
    ) -> PartCost:
        server = self._server[part]
        host = self._cluster.host_of(server.name)
        own, loads = workload.reduced_as(self._part[part]), self._loads[part]
        sharing = Sharing(
            active_threads=count_active(
                own_threads[host.name],
                self._used_threads[host.name],
                find_busy_share(workload, len(self._plan.stages)),
            ),
            used_threads=self._used_threads[host.name],
        )
        kind = find_pass(self._model, own, rows)
        speed = measure_speed(host, server, own.precision, sharing, kind)
        working_set = sum(load.working_set_bytes(own) for load in loads)
        compute_s, bound_by = spend(
            speed.read_s(sum(load.read_bytes(own, rows) for load in loads), working_set)
            * own.num_passes,
            speed.compute_s(rows * sum(load.macs(own) for load in loads)) * own.num_passes,
            speed.overhead_s(len(loads)) * own.num_transfers,
        )
        hop_s, link_s, num_bytes = self._price_hop(before, part, rows)
        return PartCost(
            part=part,
            server=server.name,
            compute_s=compute_s,
            bound_by=bound_by,
            working_set_bytes=round(working_set),
            cache_bytes=host.cache_bytes,
            exchange_s=exchange,
            hop_s=hop_s * own.num_transfers,
            hop_bytes=num_bytes * own.num_transfers,
            memory_bytes=0,
            link_s=link_s * own.num_transfers,
        )

    def _price_hop(self, before: Stage | None, target: str, rows: int) -> tuple[float, float, int]:
        """Seconds, seconds on the link and bytes of what a part receives.

        All members of the stage before hold the same bits, so the one with the fastest link
        sends; the first stage receives tokens from the coordinator beside it.
        """
        server = self._server[target].name
        if before is None:
            loopback = self._cluster.loopback_link
            return (loopback.transfer_s(rows * PICK_BYTES) if loopback else 0.0), 0.0, 0
        ways = []
        for member in before.members:
            link = self._cluster.link(self._server[member.part].name, server)
            codec = self._codec.get((member.part, target), "fp32")
            num_bytes = hop_bytes(self._model, rows, codec)
            link_s = num_bytes / link.bandwidth_bytes_per_s
            hop_s = link.transfer_s(num_bytes) + convert_s(self._model, rows, codec)
            ways.append((hop_s, link_s, round(num_bytes)))
        return min(ways)


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
