"""What crosses links in a pass: hops between stages, and bytes and messages in general.

What the members of one stage exchange is in `exchange.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from partwise.cluster.description import Cluster, Host, LinkSpeed
from partwise.distributor.senders import choose_senders
from partwise.errors import PlanError
from partwise.model.description import Model

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
"""A picked token of one row."""
CANDIDATE_BYTES = 16
"""A member's candidate for it: its id and two float32, its logit and what all its logits sum up
to."""
MESSAGE_S = 30e-6
"""What a message more keeps the servers at its ends, in Python: an exchange of 8 KB by two
members takes 64 to 78 us over loopback, of which the link's own way is 40 (measured). A frame in
and a frame out are about 60 us of a server's work (docs/decisions/0007): half of that each."""
MESSAGE_CALLS = 1 / 5
"""The same as a share of a runner's call of one layer: over 150 us where a message was measured.
What starts a call sooner (a captured graph) is taken to send sooner in proportion; nothing takes
longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """What one member receives from the stage before, from the server ``sender``: seconds until
    it has it, seconds for which what it comes through can carry nothing else, and bytes."""

    sender: str
    seconds: float
    link_s: float
    num_bytes: float


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


def message_s(host: Host) -> float:
    """Seconds for which a server of ``host`` is kept by one message more."""
    return min(MESSAGE_S, MESSAGE_CALLS * (host.call_overhead_s + host.layer_overhead_s))


def find_link(cluster: Cluster, a: str, b: str) -> LinkSpeed | None:
    """What joins two servers; None for one and the same without a loopback link: it is free."""
    return cluster.loopback_link if a == b else cluster.link(a, b)


def price_hops(
    cluster: Cluster,
    pairs: Sequence[tuple[str, str]],
    find_bytes: Callable[[str, str], float],
) -> list[Hop]:
    """What the target of each (sender, target) of a hop receives, servers both, of
    ``find_bytes(sender, target)`` bytes.

    What one sends is sent one after the other, and so is what the servers of one host send to
    other hosts, or receive from them, through its card; that all of it is there is when a target
    is taken to have its own.
    """
    busy_s: defaultdict[tuple[str, str], float] = defaultdict(float)
    num_sent = Counter(sender for sender, _ in pairs)
    ways = []
    for sender, target in pairs:
        num_bytes, link = find_bytes(sender, target), cluster.link(sender, target)
        cards = find_cards(cluster, sender, target)
        for card in cards:
            busy_s[card] += num_bytes / link.bandwidth_bytes_per_s
        ways.append((num_bytes, link.round_trip_s / 2, cards))
    hops = []
    for (sender, _), (num_bytes, way_s, cards) in zip(pairs, ways, strict=True):
        link_s = max(busy_s[card] for card in cards)
        more_s = (num_sent[sender] - 1) * message_s(cluster.host_of(sender))
        seconds = way_s + link_s + more_s
        hops.append(Hop(sender=sender, seconds=seconds, link_s=link_s, num_bytes=num_bytes))
    return hops


def find_cards(
    cluster: Cluster, sender: str, target: str
) -> tuple[tuple[str, str], tuple[str, str]]:
    """What carries bytes out of ``sender`` and into ``target``, one after the other: between hosts
    their network cards, on one host each server's own socket."""
    hosts = cluster.server(sender).host, cluster.server(target).host
    out, into = hosts if hosts[0] != hosts[1] else (f"{sender}@", f"{target}@")
    return ("out", out), ("in", into)


def choose_by_links(
    cluster: Cluster, senders: Sequence[str], targets: Sequence[str], num_bytes: float
) -> list[tuple[str, str]]:
    """The (sender, target) of each of the servers ``targets``, by what joins them
    (`choose_senders`), of ``num_bytes`` bytes each."""
    hosts = [cluster.server(name).host for name in (*senders, *targets)]
    is_alike = not cluster.links and len(set(hosts)) == len(hosts)

    def find_s(sender: str, target: str) -> float:
        return cluster.link(sender, target).transfer_s(num_bytes)

    chosen = choose_senders(senders, targets, None if is_alike else find_s)
    return list(zip(chosen, targets, strict=True))
