"""Does a plan beat one machine, and if not, what costs it most?

From predictions alone (`cost.py`): nothing here measures. One machine may do what the plan
does: it is also tried with its layers reduced as the plan's parts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from partwise.cluster.description import Cluster
from partwise.distributor.cost import (
    Prediction,
    list_unrated,
    one_machine,
    predict,
    rank_throughput,
)
from partwise.distributor.plan import Plan
from partwise.distributor.slowdown import ITSELF, explain_latency, explain_throughput
from partwise.distributor.workload import Workload
from partwise.model.description import Model

Measure = Literal["latency", "throughput"]

CONNECTIVITY = "connectivity"
TIMES = "\N{MULTIPLICATION SIGN}"
ONLY_WAY = "no single machine of the cluster holds the model, so parts are the only way"
DENSE = (
    "its members' exchange is predicted as of whole hidden states: what connectivity spares is not"
    " taken off"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A plan against the best single machine of its cluster, by one measure.

    ``measure`` is ``latency`` (one stream, alone) or ``throughput`` (tokens per second of
    ``streams``). ``speedup`` is above 1 where the plan is better; None where no machine holds
    the model. ``reason`` says what costs a plan that does not beat it; ``caveats`` what the
    comparison leaves out.
    """

    measure: Measure
    streams: int
    speedup: float | None
    reason: str = ""
    caveats: tuple[str, ...] = ()

    @property
    def beats_one_machine(self) -> bool:
        """Whether it is better, or nothing else can."""
        return self.speedup is None or _is_better(self.speedup)

    @property
    def is_one_machine(self) -> bool:
        """Whether there is nothing to compare: the plan is that machine."""
        return self.reason == ITSELF

    def __str__(self) -> str:
        caveats = f" ({'; '.join(self.caveats)})" if self.caveats else ""
        if self.speedup is None:
            return ONLY_WAY + caveats
        ratio = f"{format_ratio(self.speedup)} {TIMES}"
        answer = (
            f"yes, {ratio}" if self.beats_one_machine else f"no: {ratio}, because {self.reason}"
        )
        return answer + caveats


def format_ratio(ratio: float) -> str:
    """A ratio with as many decimals as it takes to tell it from 1."""
    if ratio < 0.1:
        return f"{ratio:.1g}"
    return f"{ratio:.2f}" if 0.9 < ratio < 1.1 else f"{ratio:.1f}"


def judge(plan: Plan, model: Model, cluster: Cluster, workload: Workload) -> tuple[Verdict, ...]:
    """The verdicts on a verified ``plan``: by latency, and with several streams by throughput.

    Raises:
        ClusterError: the plan names a server that the cluster does not have.
        PlanError: a host of the plan gives no rates for a part's precision.
    """
    caveats = tuple(list_caveats(plan, cluster, workload))
    alone = _with_one_stream(workload)
    verdicts = [_judge_latency(plan, model, cluster, alone)]
    if workload.streams > 1:
        verdicts.append(_judge_throughput(plan, model, cluster, workload))
    return tuple(replace(verdict, caveats=caveats) for verdict in verdicts)


def list_caveats(plan: Plan, cluster: Cluster, workload: Workload) -> list[str]:
    """What the comparison of ``plan`` with one machine leaves out: machines that nobody measured,
    and what a plan by connectivity saves."""
    caveats = []
    unrated = list_unrated(cluster, workload.precision)
    if unrated:
        caveats.append(say_unrated(unrated, workload.precision))
    if plan.strategy == CONNECTIVITY and any(len(stage.members) > 1 for stage in plan.stages):
        caveats.append(DENSE)
    return caveats


def say_unrated(hosts: Sequence[str], precision: str) -> str:
    """Which hosts are not compared, and why."""
    return f"not compared: {', '.join(hosts)}, without rates for {precision}"


def find_one_machine(
    plan: Plan, model: Model, cluster: Cluster, workload: Workload
) -> Prediction | None:
    """The best single machine for what ``plan`` does; None where none that has rates holds the
    model."""
    asked = {workload, *(workload.reduced_as(part) for part in plan.parts)}
    found = [one_machine(model, cluster, reduced) for reduced in asked]
    held = [prediction for prediction in found if prediction is not None]
    return min(held, key=rank_throughput, default=None)


def _is_better(speedup: float) -> bool:
    """Whether it is above 1 by more than rounding hides."""
    return round(speedup, 2) > 1


def _with_one_stream(workload: Workload) -> Workload:
    """One stream of the same deployment: inference keeps the caches of all."""
    if workload.is_training:
        return replace(workload, streams=1)
    return replace(workload, streams=1, sequences=workload.num_caches)


def _judge_latency(plan: Plan, model: Model, cluster: Cluster, workload: Workload) -> Verdict:
    prediction = predict(plan, model, cluster, workload)
    alone = find_one_machine(plan, model, cluster, workload)
    if alone is None:
        return Verdict(measure="latency", streams=1, speedup=None)
    speedup = alone.latency_s / prediction.latency_s
    reason = "" if _is_better(speedup) else explain_latency(plan, prediction, alone, workload)
    return Verdict(measure="latency", streams=1, speedup=speedup, reason=reason)


def _judge_throughput(plan: Plan, model: Model, cluster: Cluster, workload: Workload) -> Verdict:
    prediction = predict(plan, model, cluster, workload)
    alone = find_one_machine(plan, model, cluster, workload)
    if alone is None:
        return Verdict(measure="throughput", streams=workload.streams, speedup=None)
    speedup = prediction.tokens_per_s / alone.tokens_per_s
    reason = "" if _is_better(speedup) else explain_throughput(plan, prediction, alone, workload)
    return Verdict(measure="throughput", streams=workload.streams, speedup=speedup, reason=reason)
