"""What each part and each link did, from the counters that the parts sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partwise.distributor import Plan, measure_holding
from partwise.model import Model
from partwise.remote.counters import Counters, TimeSpent, Traffic, subtract
from partwise.remote.messages import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReport:
    """What one part sent to the next. ``plain_bytes`` of tensors as computed, ``moved_bytes`` as
    they travelled; microseconds a frame to pack and unpack them, of which ``beside_percent`` were
    spent on a thread beside computing. None before the first frame."""

    source: str
    target: str
    codec: str
    frames: int
    plain_bytes: int
    moved_bytes: int
    pack_us_per_frame: float | None
    unpack_us_per_frame: float | None
    beside_percent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What one part holds, and what it did.

    Milliseconds and bytes a token are of decode tokens; None before the first one.
    ``hop_ms_per_token`` is the way to this part from the one before; from the last to the first
    go the tokens that it picked.
    Seconds are of prompts too: ``compute_s``, ``wait_s`` and ``exposed_s`` add up to the part's
    time, ``hidden_s`` is communication under computing (see `TimeSpent`).
    """

    name: str
    server: str
    layers: str
    weight_bytes: int
    resident_bytes: int
    compute_ms_per_token: float | None
    wait_ms_per_token: float | None
    hop_ms_per_token: float | None
    sent_bytes_per_token: float | None
    compute_s: float
    wait_s: float
    exposed_s: float
    hidden_s: float
    link: LinkReport | None


def report_parts(
    plan: Plan, model: Model, now: Sequence[Stats], before: Sequence[Stats] | None
) -> list[PartReport]:
    """What every part did, in stage order, between two readings of its counters; None: since it
    was deployed."""
    names = [member.part for stage in plan.stages for member in stage.members]
    changes = [_Change(stats, before[i] if before else None) for i, stats in enumerate(now)]
    return [
        _report_part(
            plan,
            model,
            name,
            changes[index],
            _report_link(plan, names[index : index + 2], changes[index : index + 2]),
        )
        for index, name in enumerate(names)
    ]


class _Change:
    """What came to a part's counters."""

    def __init__(self, now: Stats, before: Stats | None) -> None:
        self.resident_bytes = now.resident_bytes
        self.decode = subtract(now.counters, before.counters if before else Counters())
        self.spent = subtract(now.spent, before.spent if before else TimeSpent())
        self.sent = subtract(now.sent, before.sent if before else Traffic())
        self.received = subtract(now.received, before.received if before else Traffic())


def _report_part(
    plan: Plan, model: Model, name: str, change: _Change, link: LinkReport | None
) -> PartReport:
    stage, decode, spent = plan.stage_of(name), change.decode, change.spent
    return PartReport(
        name=name,
        server=plan.part(name).server,
        layers=model.describe_range(stage.start, stage.stop),
        weight_bytes=measure_holding(plan, model, name).weight_bytes,
        resident_bytes=change.resident_bytes,
        compute_ms_per_token=_per(decode.tokens, decode.compute_ns / 1e6),
        wait_ms_per_token=_per(decode.tokens, decode.wait_ns / 1e6),
        hop_ms_per_token=_per(decode.hops, decode.hop_ns / 1e6),
        sent_bytes_per_token=_per(decode.tokens, decode.sent_bytes),
        compute_s=spent.compute_ns / 1e9,
        wait_s=spent.wait_ns / 1e9,
        exposed_s=spent.exposed_ns / 1e9,
        hidden_s=spent.hidden_ns / 1e9,
        link=link,
    )


def _report_link(plan: Plan, names: Sequence[str], changes: Sequence[_Change]) -> LinkReport | None:
    """What the first of two parts sent to the second; None: there is no second."""
    if len(names) < 2:
        return None
    sent, received = changes[0].sent, changes[1].received
    codec = next(k.codec for k in plan.links if (k.source, k.target) == (names[0], names[1]))
    converted_ns = sent.convert_ns + received.convert_ns
    beside_ns = sent.beside_ns + received.beside_ns
    return LinkReport(
        source=names[0],
        target=names[1],
        codec=codec,
        frames=sent.frames,
        plain_bytes=sent.plain_bytes,
        moved_bytes=sent.moved_bytes,
        pack_us_per_frame=_per(sent.frames, sent.convert_ns / 1e3),
        unpack_us_per_frame=_per(received.frames, received.convert_ns / 1e3),
        beside_percent=_per(converted_ns, 100 * beside_ns),
    )


def _per(count: int, value: float) -> float | None:
    return value / count if count else None
