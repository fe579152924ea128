"""What each part and each link did, from the counters that the parts sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partwise.distributor import Plan, measure_holding
from partwise.model import Model
from partwise.registry.routes import Leg, Routes, compile_routes
from partwise.remote.counters import Counters, Exchanged, TimeSpent, Traffic, subtract
from partwise.remote.messages import Stats


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReport:
    """What one part sent to one of the next stage. ``plain_bytes`` of tensors as computed,
    ``moved_bytes`` as they travelled; microseconds a frame to pack and unpack them, of which
    ``beside_percent`` were spent on a thread beside computing. None before the first frame."""

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
class ExchangeReport:
    """What one part exchanged with the other members of its stage, in so many ``calls`` for a sum
    or what all have.

    ``sent_bytes`` of tensors to all of them; ``exchange_s`` in all, of which ``wait_s`` until what
    they sent was there. Milliseconds and bytes a token are of decode tokens; None before the first.
    """

    calls: int
    sent_bytes: int
    exchange_s: float
    wait_s: float
    ms_per_token: float | None
    sent_bytes_per_token: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """What one part holds, and what it did.

    Milliseconds and bytes a token are of decode tokens; None before the first one. Those of
    computing are without exchanges. ``hop_ms_per_token`` is the way to this part from the one that
    sends to it; the leader of the last stage sends the first what it picked. ``links`` are to the
    next stage, ``exchange`` is with the other members of its own: None where there are none.
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
    links: tuple[LinkReport, ...]
    exchange: ExchangeReport | None


def report_parts(
    plan: Plan, model: Model, now: Sequence[Stats], before: Sequence[Stats] | None
) -> list[PartReport]:
    """What every part did, in stage order, between two readings of its counters; None: since it
    was deployed."""
    names = [member.part for stage in plan.stages for member in stage.members]
    changes = {name: _Change(now[i], before[i] if before else None) for i, name in enumerate(names)}
    return [_report_part(plan, model, compile_routes(plan, model, n), changes) for n in names]


class _Change:
    """What came to a part's counters."""

    def __init__(self, now: Stats, before: Stats | None) -> None:
        self.resident_bytes = now.resident_bytes
        self.decode = subtract(now.counters, before.counters if before else Counters())
        self.spent = subtract(now.spent, before.spent if before else TimeSpent())
        self.sent = subtract(now.sent, before.sent if before else Traffic())
        self.received = subtract(now.received, before.received if before else Traffic())
        self.exchanged = subtract(now.exchanged, before.exchanged if before else Exchanged())


def _report_part(
    plan: Plan, model: Model, routes: Routes, changes: Mapping[str, _Change]
) -> PartReport:
    name, change = routes.part, changes[routes.part]
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
        links=tuple(
            _report_link(name, leg, change, changes[leg.part], is_only=len(routes.targets) == 1)
            for leg in routes.targets
        ),
        exchange=_report_exchange(change) if routes.fellows else None,
    )


def _report_link(
    source: str, leg: Leg, sender: _Change, receiver: _Change, *, is_only: bool
) -> LinkReport:
    """What a part sent over one ``leg``: of several by what came, for all have the same frames."""
    sent, received = sender.sent, receiver.received
    gone = sent if is_only else received
    # Of packing for all targets as much as went to this one.
    share = gone.frames / sent.frames if sent.frames else 1.0
    converted_ns = share * sent.convert_ns + received.convert_ns
    beside_ns = share * sent.beside_ns + received.beside_ns
    return LinkReport(
        source=source,
        target=leg.part,
        codec=leg.codec,
        frames=gone.frames,
        plain_bytes=gone.plain_bytes,
        moved_bytes=gone.moved_bytes,
        pack_us_per_frame=_per(sent.frames, sent.convert_ns / 1e3),
        unpack_us_per_frame=_per(received.frames, received.convert_ns / 1e3),
        beside_percent=100 * beside_ns / converted_ns if converted_ns else None,
    )


def _report_exchange(change: _Change) -> ExchangeReport:
    exchanged, decode = change.exchanged, change.decode
    return ExchangeReport(
        calls=exchanged.calls,
        sent_bytes=exchanged.sent_bytes,
        exchange_s=exchanged.ns / 1e9,
        wait_s=exchanged.wait_ns / 1e9,
        ms_per_token=_per(decode.tokens, decode.exchange_ns / 1e6),
        sent_bytes_per_token=_per(decode.tokens, decode.exchanged_bytes),
    )


def _per(count: int, value: float) -> float | None:
    return value / count if count else None
