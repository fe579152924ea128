"""What costs a plan most of the time by which it falls behind one machine, in half a line.

Of all that a plan adds (hops, exchanges, computing that is slower than its share of one
machine's, waiting) the largest is named, with its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from partwise.distributor.cost import Prediction
from partwise.distributor.plan import Plan
from partwise.distributor.pricing import PartCost
from partwise.distributor.workload import Workload

ITSELF = "the plan is one machine itself"
UNEVEN = 1.25
"""A stage that takes this many times the mean of all is called slow."""

Costs = Sequence[Sequence[PartCost]]
"""Of the members of each stage."""


def explain_latency(
    plan: Plan, prediction: Prediction, alone: Prediction, workload: Workload
) -> str:
    """Why one stream is slower than on one machine; both predictions are for one stream."""
    if is_same(prediction, alone):
        return ITSELF
    per = "microbatch" if workload.is_training else "token"
    costs = group_by_stage(plan, prediction)
    return _explain_trip(costs, prediction.latency_s, alone, per)


def explain_throughput(
    plan: Plan, prediction: Prediction, alone: Prediction, workload: Workload
) -> str:
    """Why the streams get fewer tokens a second than on one machine."""
    if is_same(prediction, alone):
        return ITSELF
    costs = group_by_stage(plan, prediction)
    cycle_s, alone_cycle_s = _cycle_s(prediction, workload), _cycle_s(alone, workload)
    waiting_s = cycle_s * prediction.bubble
    if cycle_s - waiting_s - alone_cycle_s >= waiting_s:
        return _explain_slowest(costs, prediction, alone)
    if workload.is_training:
        why = _explain_filling(costs, waiting_s, prediction.num_microbatches)
    else:
        why = _explain_trip(costs, cycle_s, alone, "pass")
    busy = 100 * (1 - prediction.bubble)
    return f"the slowest of {len(costs)} stages is busy {busy:.0f} % of the time: {why}"


def is_same(prediction: Prediction, alone: Prediction) -> bool:
    """Whether a plan is one part that takes as long as one machine."""
    ratio = alone.latency_s / prediction.latency_s
    return len(prediction.parts) == 1 and round(ratio, 2) == 1


def group_by_stage(plan: Plan, prediction: Prediction) -> list[list[PartCost]]:
    """The costs of the members of each stage, from the flat list of a prediction."""
    costs = iter(prediction.parts)
    return [list(islice(costs, len(stage.members))) for stage in plan.stages]


def _cycle_s(prediction: Prediction, workload: Workload) -> float:
    """Seconds in which each stream gets its next tokens."""
    tokens = workload.streams * (prediction.rows if workload.is_training else 1)
    return tokens / prediction.tokens_per_s


def _explain_trip(costs: Costs, trip_s: float, alone: Prediction, per: str) -> str:
    """The largest of what a way through all stages adds to one machine's computing."""
    slowest = [max(stage, key=lambda cost: cost.busy_s) for stage in costs]
    hops_s = trip_s - sum(cost.busy_s for cost in slowest)
    exchange_s = sum(cost.exchange_s for cost in slowest)
    compute_s = sum(cost.compute_s for cost in slowest)
    added_s = compute_s - alone.parts[0].compute_s
    of = f"of {format_ms(trip_s)} ms a {per}"
    if hops_s >= max(exchange_s, added_s):
        worst = max((cost for stage in costs for cost in stage), key=lambda cost: cost.hop_s)
        which = f" (the slowest, into {worst.server!r}, {format_ms(worst.hop_s)} ms)"
        return f"hops over links take {format_ms(hops_s)} {of}{which if worst.hop_s else ''}"
    if exchange_s >= added_s:
        return f"the exchange between members takes {format_ms(exchange_s)} {of}"
    worst = max(slowest, key=lambda cost: cost.compute_s - _fair_s(cost, costs, alone))
    return _explain_compute(worst, costs, alone, per)


def _explain_filling(costs: Costs, waiting_s: float, num_microbatches: int) -> str:
    """What a training step waits for: the other stages, before the first microbatch and after
    the last, or the hops between them."""
    stage_s = [max(cost.busy_s for cost in stage) for stage in costs]
    hops_s = waiting_s - (sum(stage_s) - max(stage_s))
    if hops_s > waiting_s / 2:
        return f"hops over links take {format_ms(hops_s)} ms of its waiting"
    noun = "microbatch" if num_microbatches == 1 else "microbatches"
    return f"a step of {num_microbatches} {noun} fills and drains the pipeline"


def _explain_slowest(costs: Costs, prediction: Prediction, alone: Prediction) -> str:
    """What makes the part that all others wait for slow."""
    slowest = max(
        (cost for stage in costs for cost in stage), key=lambda cost: max(cost.busy_s, cost.link_s)
    )
    if slowest.link_s > slowest.busy_s:
        return (
            f"the link into {slowest.server!r} takes {format_ms(slowest.link_s)} ms a pass,"
            f" computing there {format_ms(slowest.busy_s)} ms"
        )
    # While all stages are busy, the slowest one's passes stand against all of one machine's.
    alone_s = alone.parts[0].compute_s * alone.num_microbatches / prediction.num_microbatches
    if slowest.exchange_s > slowest.compute_s - alone_s:
        return (
            f"the exchange between members takes {format_ms(slowest.exchange_s)} of"
            f" {format_ms(slowest.busy_s)} ms a pass"
        )
    stage_s = [max(cost.busy_s for cost in stage) for stage in costs]
    is_even = slowest.busy_s <= UNEVEN * sum(stage_s) / len(stage_s)
    if len(costs) > 1 and is_even and slowest.bound_by != "overhead":
        return (
            f"{_passes(prediction)} take {format_ms(slowest.busy_s)} ms each in the slowest part,"
            f" on one machine {_passes(alone)} {format_ms(alone.parts[0].busy_s)} ms each"
        )
    return _explain_compute(slowest, costs, alone, "pass")


def _explain_compute(cost: PartCost, costs: Costs, alone: Prediction, per: str) -> str:
    """Why a part computes for longer than its share of one machine's time."""
    if cost.bound_by == "overhead":
        every = [other for stage in costs for other in stage]
        count = sum(other.bound_by == "overhead" for other in every)
        return (
            f"{count} of {len(every)} parts are bound by overhead: {cost.server!r} spends more of"
            f" {format_ms(cost.compute_s)} ms a {per} on calls than on its layers"
        )
    share = 100 * _share_read(cost, costs)
    return (
        f"server {cost.server!r} computes {format_ms(cost.compute_s)} ms a {per} for {share:.0f} %"
        f" of what is read, one machine {format_ms(alone.parts[0].compute_s)} ms for all"
    )


def _fair_s(cost: PartCost, costs: Costs, alone: Prediction) -> float:
    """What one machine would compute for as much of what is read."""
    return _share_read(cost, costs) * alone.parts[0].compute_s


def _share_read(cost: PartCost, costs: Costs) -> float:
    return cost.working_set_bytes / sum(c.working_set_bytes for stage in costs for c in stage)


def name_bound(cost: PartCost) -> str:
    """What most of a part's time goes to: as its cost says, or the exchange with its stage."""
    return "exchange" if cost.exchange_s > cost.compute_s else cost.bound_by


def _passes(prediction: Prediction) -> str:
    """In how many passes the streams are served, e.g. ``2 passes of 4 rows``."""
    number = prediction.num_microbatches
    return f"{number} {'pass' if number == 1 else 'passes'} of {prediction.rows} rows"


def format_ms(seconds: float) -> str:
    """Milliseconds, without their unit, with three significant digits."""
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"
