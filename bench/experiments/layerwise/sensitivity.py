"""Whether the answer hangs on what was assumed where the seed says nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.layerwise.speed import measure_grid
from experiments.layerwise.world import (
    CONTEXT_TOKENS,
    FULL,
    HALVED,
    NVLINK_BOXES,
    STEPS,
    VOCABULARY,
    Step,
    describe_gated,
    describe_plain,
    open_cluster,
)
from experiments.page import Table, round_figure
from partwise.cluster import Cluster
from partwise.model import Model

STREAMS = (1, 16, 64, 128, 512)
LONG_CONTEXT_TOKENS = 2048
SXM_MEMORY_BYTES_PER_S = 3.35e12
"""Data sheet; the presets have the PCIe card's, which was measured."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One assumption, changed or not."""

    name: str
    model: Model
    cluster: Cluster
    step: Step = HALVED
    context_tokens: int = CONTEXT_TOKENS

    def find_ratio(self, streams: int) -> float:
        """Tokens/s of layer-wise over those of TP 8 x PP 2."""
        workload = self.step.workload(streams=streams, context_tokens=self.context_tokens)
        layer_wise, baseline = (
            measure_grid(self.model, self.cluster, workload, grid).tokens_per_s
            for grid in ((16, 1), (2, 8))
        )
        return layer_wise / baseline


def raise_memory(cluster: Cluster, bytes_per_s: float) -> Cluster:
    """The same cards with device memory that reads at least so fast."""
    curve = cluster.hosts[0].one_core_bytes_per_s
    faster = replace(curve, y=tuple(max(y, bytes_per_s) for y in curve.y))
    hosts = tuple(
        replace(host, one_core_bytes_per_s=faster, all_cores_bytes_per_s=faster)
        for host in cluster.hosts
    )
    return replace(cluster, hosts=hosts)


def list_cases() -> list[Case]:
    """What the comparison assumes, and then with one assumption after the other changed."""
    base = Case(name="as assumed", model=describe_gated(), cluster=open_cluster(32), step=HALVED)
    boxes, link = open_cluster(32, NVLINK_BOXES), base.cluster.default_link
    # Half the bytes of activations and KV are what links of twice the bandwidth carry, and what
    # half the context holds.
    twice = replace(link, bandwidth_bytes_per_s=2 * link.bandwidth_bytes_per_s)
    quick = replace(link, round_trip_s=link.round_trip_s / 5)
    return [
        base,
        replace(base, name=NVLINK_BOXES, cluster=boxes),
        replace(
            base,
            name=f"{NVLINK_BOXES}, memory of the SXM card",
            cluster=raise_memory(boxes, SXM_MEMORY_BYTES_PER_S),
        ),
        replace(base, name="a hop of 1 us", cluster=replace(base.cluster, default_link=quick)),
        replace(
            base,
            name="activations and KV in fp16",
            cluster=replace(base.cluster, default_link=twice),
            context_tokens=CONTEXT_TOKENS // 2,
        ),
        replace(
            base,
            name=f"a context of {LONG_CONTEXT_TOKENS} tokens",
            context_tokens=LONG_CONTEXT_TOKENS,
        ),
        replace(base, name="int8, the MLP whole", step=STEPS[1]),
        replace(base, name="fp16, the MLP whole", step=FULL),
        replace(base, name="two matrices in the MLP", model=describe_plain()),
        replace(
            base,
            name=f"a head of {VOCABULARY:,} rows",
            model=describe_gated(vocabulary=VOCABULARY),
        ),
    ]


def tabulate_sensitivity() -> Table:
    """Layer-wise over the baseline, assumption by assumption."""
    return Table(
        name="sensitivity",
        title="Tokens/s of layer-wise over TP 8 x PP 2, with one assumption changed",
        headers=("assumption", *("1 stream" if n == 1 else f"{n} streams" for n in STREAMS)),
        rows=[
            (case.name, *(round_figure(case.find_ratio(streams)) for streams in STREAMS))
            for case in list_cases()
        ],
    )
