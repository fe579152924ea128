"""What a plan is predicted to cost: time, bytes and energy, and what binds each part.

A part's time is max(bytes / bandwidth, MACs / rate) + overhead; a stage adds its members'
exchange, a pass adds hops. What no cache holds is read at the pace of the runner's kernels,
where the host's file gives it; the overhead is of the call, its layers and their rows.

Who shares a host: of its servers that the plan uses as many in proportion as there are
microbatches for the stages, but at least the members of one stage, which compute at once.
Cores and bandwidth are shared by those, the cache by all; where there are more servers than cores
they wait for each other (`speed.py`).

Training fills and drains a pipeline of ``streams`` microbatches each step, by 1F1B: a stage goes
back with a microbatch as soon as it can, and keeps what the others in flight have saved
(`footprint.py`).

Members exchange partial sums as wholes (`exchange.py`): activations that sparse connectivity
spares are not taken off.

It judges no fit: ``memory_bytes`` is there to be compared. The optimizer's step is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from partwise.cluster.description import Cluster, Server
from partwise.distributor.footprint import part_footprint
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Member, ModelIdentity, Part, Plan, Precision, Stage
from partwise.distributor.pricing import PartCost, Pricing
from partwise.distributor.runners import runner_for
from partwise.distributor.speed import Bound
from partwise.distributor.workload import Workload
from partwise.model.description import Model

__all__ = ["Bound", "PartCost", "Prediction", "list_unrated", "one_machine", "predict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a plan costs.

    ``latency_s`` is one token of one stream alone (training: one microbatch alone, forwards
    and back); ``tokens_per_s`` is over all the workload's streams, which decode in
    ``num_microbatches`` of up to ``rows``. ``bubble`` is the share of a cycle for which the
    slowest part waits. ``watts`` and ``joules_per_token`` are None where a host in use gives
    none.
    """

    parts: tuple[PartCost, ...]
    latency_s: float
    tokens_per_s: float
    num_microbatches: int
    rows: int
    bubble: float
    hop_bytes_per_token: int
    watts: float | None
    joules_per_token: float | None


def predict(plan: Plan, model: Model, cluster: Cluster, workload: Workload) -> Prediction:
    """What a verified ``plan`` for ``model`` costs on ``cluster``.

    The coordinator is taken to run beside the first part: a token comes back to it from the
    last.

    Raises:
        ClusterError: the plan names a server that the cluster does not have.
        PlanError: a host gives no rates for a part's precision.
    """
    pricing = Pricing(plan, model, cluster)
    one = replace(workload, streams=1)
    alone = pricing.price(one)
    costs = alone if workload.streams == 1 else pricing.price(workload)
    rows, num_microbatches = pricing.split(workload)
    pipeline = pricing.find_pipeline(costs, workload)
    stages_s = _list_stages_s(costs)
    slowest_s = max(stages_s)
    cycle_s = pipeline.cycle_s(slowest_s, sum(stages_s))
    tokens_per_s = workload.streams * (rows if workload.is_training else 1) / cycle_s
    watts = pricing.watts()
    return Prediction(
        parts=tuple(
            replace(cost, memory_bytes=_memory_bytes(plan, model, cost.part, workload))
            for stage in costs
            for cost in stage
        ),
        latency_s=sum(_list_stages_s(alone)) + pricing.find_pipeline(alone, one).fixed_s,
        tokens_per_s=tokens_per_s,
        num_microbatches=num_microbatches,
        rows=rows,
        bubble=1 - num_microbatches * max(slowest_s, pipeline.link_s) / cycle_s,
        hop_bytes_per_token=_hop_bytes_per_token(alone, rows, workload),
        watts=watts,
        joules_per_token=None if watts is None else watts / tokens_per_s,
    )


def rank_throughput(prediction: Prediction) -> tuple[float, ...]:
    """The less, the more tokens per second, then the less latency."""
    return -prediction.tokens_per_s, prediction.latency_s


def one_machine(
    model: Model,
    cluster: Cluster,
    workload: Workload,
    rank: Callable[[Prediction], tuple[float, ...]] = rank_throughput,
) -> Prediction | None:
    """The prediction of the best single machine that holds all of ``model``; None: none does.

    A machine that the cluster cuts into servers is taken whole, with all that its servers
    have: one process with all of its threads is what parts on it must beat. Best is the least
    ``rank``. Machines without rates for the precision are left out (`list_unrated`).
    """
    plan = _plan_whole(model, "whole", workload)
    needed = part_footprint(plan, model, "part0", workload).total_bytes
    found: dict[object, Prediction] = {}
    for host in cluster.hosts:
        servers = [server for server in cluster.servers if server.host == host.name]
        memory_bytes = sum(server.memory_bytes for server in servers)
        if not servers or needed > memory_bytes or workload.precision not in host.rates:
            continue
        threads = min(host.cores, sum(server.threads for server in servers))
        kind = (repr(replace(host, name="")), threads)
        if kind not in found:
            whole = Server(
                name=host.name, host=host.name, threads=threads, memory_bytes=memory_bytes
            )
            alone = replace(cluster, hosts=(host,), servers=(whole,), links={})
            here = _plan_whole(model, host.name, workload)
            found[kind] = predict(here, model, alone, workload)
    return min(found.values(), key=rank, default=None)


def list_unrated(cluster: Cluster, precision: str) -> list[str]:
    """Hosts with servers that give no rates for ``precision``: nobody knows how fast they are."""
    used = {server.host for server in cluster.servers}
    return [h.name for h in cluster.hosts if h.name in used and precision not in h.rates]


def _plan_whole(model: Model, server: str, workload: Workload) -> Plan:
    stages = (Stage(start=0, stop=len(model.layers), members=(Member(part="part0"),)),)
    return Plan(
        strategy="one machine",
        model=ModelIdentity(
            name=model.name,
            architecture=model.architecture,
            fingerprint=model.fingerprint,
            num_layers=len(model.layers),
        ),
        stages=stages,
        parts=(
            Part(
                name="part0",
                server=server,
                precision=cast("Precision", workload.precision),
                runner=runner_for(workload.precision),
                mlp_sparsity=workload.mlp_sparsity,
            ),
        ),
        links=(),
        placements=place_parameters(model, stages),
    )


def _list_stages_s(costs: Sequence[Sequence[PartCost]]) -> list[float]:
    """Seconds for which a pass keeps each stage busy."""
    return [max(cost.busy_s for cost in stage) for stage in costs]


def _memory_bytes(plan: Plan, model: Model, part: str, workload: Workload) -> int:
    return part_footprint(plan, model, part, workload).total_bytes


def _hop_bytes_per_token(alone: list[list[PartCost]], rows: int, workload: Workload) -> int:
    num_bytes = sum(cost.hop_bytes for stage in alone for cost in stage)
    return num_bytes // rows if workload.is_training else num_bytes
