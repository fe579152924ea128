"""Which codec each link of a plan gets: fp32, unless a smaller one is predicted to pay.

It changes no stage, and judges no accuracy: what a codec loses is measured elsewhere, and the
plan's notes say where one was taken.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast, get_args

import msgspec

from partwise.cluster.description import LinkSpeed
from partwise.distributor.cost import Prediction, predict
from partwise.distributor.pipeline import split_streams
from partwise.distributor.plan import Codec, Link, Plan
from partwise.distributor.problem import Problem, Strategy
from partwise.distributor.transfer import convert_s, hop_bytes
from partwise.errors import PlanError

CODECS: tuple[str, ...] = get_args(Codec)
SMALLER = ("bf16", "int8")
"""What is chosen among by itself, the least loss first: fp16 has the bytes of bf16, and an end at
65,504 that the activations of some models are beyond."""
MIN_GAIN = 1.05
"""How many times as many tokens a second a smaller codec must be predicted to give: each loses
accuracy, and predictions are no better than this."""
SAME = 0.999
"""A link keeps fp32 where that leaves so much of the tokens a second."""


class Coded:
    """A strategy, and after it the codecs of its plan's links."""

    def __init__(self, strategy: Strategy) -> None:
        self.NAME, self.HELP = strategy.NAME, strategy.HELP
        self._strategy = strategy

    def plan(self, problem: Problem) -> Plan:
        """See `Strategy.plan`."""
        return choose_codecs(self._strategy.plan(problem), problem)


def choose_codecs(plan: Plan, problem: Problem) -> Plan:
    """``plan`` with the codecs that the problem's option ``codec`` asks for (``auto``, as if not
    given, or one for all links), and a note for those that are not fp32.

    Raises:
        PlanError: there is no such codec.
    """
    asked = problem.options.get("codec", "auto")
    if asked == "auto":
        return plan if problem.workload.is_training else _choose(plan, problem)
    coded = with_codec(plan, asked)
    note = f"links: {asked}, as asked, which changes results"
    return coded if asked == "fp32" or not plan.links else _note(coded, note)


def explain_codec(plan: Plan, problem: Problem, link: Link) -> str:
    """Why ``link`` of a plan that `choose_codecs` made has its codec."""
    if problem.options.get("codec", "auto") != "auto":
        return "as asked"
    if problem.workload.is_training:
        return "in training"
    if _is_on_one_host(link, plan, problem):
        return "on one host"
    if link.codec == "fp32":
        return f"no smaller codec is predicted to give {MIN_GAIN:g} x the tokens/s"
    return "predicted to give more tokens/s; it changes results"


def with_codec(plan: Plan, codec: str, links: Collection[Link] | None = None) -> Plan:
    """``plan`` with that codec on ``links`` (None: on all).

    Raises:
        PlanError: there is no such codec.
    """
    if codec not in CODECS:
        raise PlanError(f"the codec {codec!r} is not known: give one of {', '.join(CODECS)}")
    chosen = cast("Codec", codec)
    return msgspec.structs.replace(
        plan,
        links=tuple(
            msgspec.structs.replace(link, codec=chosen) if links is None or link in links else link
            for link in plan.links
        ),
    )


def _choose(plan: Plan, problem: Problem) -> Plan:
    plan = with_codec(plan, "fp32")
    first = _predict(plan, problem)
    if not plan.links or _limit(plan, first) < MIN_GAIN * first.tokens_per_s:
        return plan
    best, best_rate = plan, first.tokens_per_s
    for codec in SMALLER:
        links = [link for link in plan.links if _is_sooner(link, codec, plan, problem)]
        coded = with_codec(plan, codec, links)
        rate = _predict(coded, problem).tokens_per_s
        if rate >= MIN_GAIN * best_rate:
            best, best_rate = coded, rate
    best = _relax(best, best_rate, problem)
    return _note(best, _explain(best, first, best_rate)) if best != plan else plan


def _predict(plan: Plan, problem: Problem) -> Prediction:
    return predict(plan, problem.model, problem.cluster, problem.workload)


def _limit(plan: Plan, prediction: Prediction) -> float:
    """Tokens per second if every hop took no time."""
    busy = {cost.part: cost.busy_s for cost in prediction.parts}
    stages = [max(busy[member.part] for member in stage.members) for stage in plan.stages]
    cycle_s = max(prediction.num_microbatches * max(stages), sum(stages))
    streams = prediction.tokens_per_s * _cycle_s(prediction)
    return streams / cycle_s


def _cycle_s(prediction: Prediction) -> float:
    """Seconds in which every stream gets a token."""
    slowest_s = max(max(cost.busy_s, cost.link_s) for cost in prediction.parts)
    return prediction.num_microbatches * slowest_s / (1 - prediction.bubble)


def _is_sooner(link: Link, codec: str, plan: Plan, problem: Problem) -> bool:
    """Whether a pass comes over ``link`` sooner with ``codec`` than with fp32; never where both
    ends are on one host."""
    cluster, model = problem.cluster, problem.model
    if _is_on_one_host(link, plan, problem):
        return False
    source, target = (plan.part(name).server for name in (link.source, link.target))
    rows, _ = split_streams(problem.workload.streams, len(plan.stages))
    speed = cluster.link(source, target)
    plain_s = speed.transfer_s(hop_bytes(model, rows, "fp32"))
    coded_s = speed.transfer_s(hop_bytes(model, rows, codec))
    return coded_s + convert_s(model, rows, codec) < plain_s


def _is_on_one_host(link: Link, plan: Plan, problem: Problem) -> bool:
    servers = [plan.part(name).server for name in (link.source, link.target)]
    source, target = (problem.cluster.server(server).host for server in servers)
    return source == target


def _relax(plan: Plan, rate: float, problem: Problem) -> Plan:
    """Without the codecs that do not matter, tried for all links of one speed together."""
    speeds: dict[LinkSpeed, list[Link]] = {}
    for link in plan.links:
        if link.codec != "fp32":
            ends = (plan.part(name).server for name in (link.source, link.target))
            speeds.setdefault(problem.cluster.link(*ends), []).append(link)
    for links in speeds.values():
        plainer = with_codec(plan, "fp32", links)
        if _predict(plainer, problem).tokens_per_s >= SAME * rate:
            plan = plainer
    return plan


def _explain(plan: Plan, plain: Prediction, rate: float) -> str:
    """Which links have which codec, and what that is predicted to give."""
    coded = [link for link in plan.links if link.codec != "fp32"]
    names = ", ".join(f"{link.source} > {link.target}" for link in coded[:4])
    more = f" and {len(coded) - 4} more" if len(coded) > 4 else ""
    return (
        f"links {names}{more}: {coded[0].codec}, which changes results, for"
        f" {rate:,.4g} tokens/s instead of {plain.tokens_per_s:,.4g} with fp32 are predicted"
    )


def _note(plan: Plan, note: str) -> Plan:
    return msgspec.structs.replace(plan, notes=(*plan.notes, note))
