"""What crosses links in a pass: hops between stages, exchanges between members of one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from partwise.cluster.description import Cluster, LinkSpeed
from partwise.distributor.placement import split_kinds
from partwise.distributor.plan import Stage
from partwise.errors import PlanError
from partwise.model.description import LayerKind, Model

CODEC_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0}
"""Bytes of one activation on a link by its codec."""
ROW_BYTES = {"int8": 28}
"""And of one row: its scale, and the values that are exact."""
CONVERT_S = {"bf16": 0.7e-9, "fp16": 3.0e-9, "int8": 1.4e-9}
"""Seconds to pack and unpack one activation, on one core with AVX2 (bench/link_codecs.py)."""
CONVERT_CALL_S = {"bf16": 150e-6, "fp16": 120e-6, "int8": 280e-6}
"""And for each frame, whatever its size, at both ends together: measured between the passes of a
runner, whose caches hold other things; in a loop of its own it takes a tenth."""
PICK_BYTES = 8
"""A picked token, or a member's candidate for it, of one row."""


def hop_bytes(model: Model, rows: int, codec: str) -> float:
    """Bytes of the tensors of a cut for ``rows`` rows.

    Raises:
        PlanError: the codec is not known.
    """
    if codec not in CODEC_BYTES:
        raise PlanError(f"the codec {codec!r} is not known: give one of {', '.join(CODEC_BYTES)}")
    values = rows * _count_values(model)
    num_scales = rows * len(model.cut_tensors)
    return values * CODEC_BYTES[codec] + num_scales * ROW_BYTES.get(codec, 0)


def convert_s(model: Model, rows: int, codec: str) -> float:
    """Seconds to pack what `hop_bytes` counts, and to unpack it again."""
    if codec not in CONVERT_S:
        return 0.0
    return CONVERT_CALL_S[codec] + rows * _count_values(model) * CONVERT_S[codec]


def _count_values(model: Model) -> int:
    return sum(tensor.width for tensor in model.cut_tensors)


def find_link(cluster: Cluster, a: str, b: str) -> LinkSpeed | None:
    """What joins two servers; None for one and the same without a loopback link: it is free."""
    return cluster.loopback_link if a == b else cluster.link(a, b)


def list_links(cluster: Cluster, servers: Sequence[str]) -> list[LinkSpeed]:
    """The different links that join pairs of ``servers``."""
    if cluster.links:
        pairs = itertools.combinations(servers, 2)
        return list(dict.fromkeys(cluster.link(a, b) for a, b in pairs))
    by_host: dict[str, list[str]] = {}
    for name in servers:
        by_host.setdefault(cluster.server(name).host, []).append(name)
    links = [cluster.default_link] if len(by_host) > 1 else []
    together = next((names for names in by_host.values() if len(names) > 1), None)
    return [*links, cluster.link(*together[:2])] if together else links


def exchange_s(
    stage: Stage, model: Model, cluster: Cluster, servers: Sequence[str], rows: int
) -> float:
    """Seconds that the members of ``stage``, on ``servers``, exchange partial sums in a pass.

    Every kind of neuron that a layer splits ends in one sum of the hidden state: two members
    send it to each other, more reduce-scatter it and gather it again, at the pace of their
    slowest pair. A head that is split exchanges each member's candidates alone.
    """
    if len(servers) < 2:
        return 0.0
    links = list_links(cluster, servers)
    num_bytes = hop_bytes(model, rows, "fp32")
    sum_s = measure_sum(links, len(servers), num_bytes)
    pick_s = max(link.transfer_s(rows * PICK_BYTES) for link in links)
    sums = picks = 0
    for i in range(stage.start, stage.stop):
        layer = model.layers[i]
        kinds = {kind.name for kind in layer.neuron_kinds} & split_kinds(stage, i)
        if layer.kind is LayerKind.HEAD:
            picks += len(kinds)
        else:
            sums += len(kinds)
    return sums * sum_s + picks * pick_s


def measure_sum(links: Sequence[LinkSpeed], num_members: int, num_bytes: float) -> float:
    """Seconds of one sum of ``num_bytes`` over all members of a stage, joined by ``links``."""
    if num_members == 2:
        return links[0].transfer_s(num_bytes)
    share = num_bytes * (num_members - 1) / num_members
    return 2 * max(link.transfer_s(share) for link in links)
