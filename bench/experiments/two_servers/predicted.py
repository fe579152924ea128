"""Plans of two servers, and what the cost model says of them under a condition of their link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from experiments.two_servers.cases import FREE, Case, Condition, Layout, Point
from partwise.cluster import Cluster, Host
from partwise.cluster.description import LinkSpeed
from partwise.cluster.presets import preset
from partwise.distributor import Plan, balance_layers
from partwise.distributor.cost import predict
from partwise.distributor.plan import Precision
from partwise.distributor.problem import Problem
from partwise.distributor.runners import runner_for
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.model import Model

CONTEXT_TOKENS = 32
"""A row reads half of it on average: points are measured over few tokens."""


def describe(host: Host, servers: Sequence[str], condition: Condition) -> Cluster:
    """``host`` cut into two servers of one thread that are joined by such a link."""
    cut = preset("local-2", host=host)
    near = cut.default_link
    link = LinkSpeed(
        bandwidth_bytes_per_s=(
            near.bandwidth_bytes_per_s
            if condition.mbit_per_s is None
            else condition.mbit_per_s * 1e6 / 8
        ),
        round_trip_s=near.round_trip_s + 2 * condition.delay_ms / 1e3,
    )
    named = tuple(
        replace(server, name=name, threads=1)
        for server, name in zip(cut.servers, servers, strict=True)
    )
    return replace(cut, servers=named, links={(servers[0], servers[1]): link})


def make_plan(case: Case, layout: Layout, model: Model, host: Host, servers: Sequence[str]) -> Plan:
    """The plan of a layout over ``servers``, of which one alone uses the first."""
    if layout is Layout.NEURONS:
        problem = Problem(
            model=model,
            cluster=describe(host, servers, FREE),
            workload=make_workload(case, 1),
            servers=tuple(servers),
        )
        return STRATEGIES["count"].plan(problem)
    used = servers[:1] if layout is Layout.ONE else servers
    precision = cast("Precision", case.precision)
    return balance_layers(model, used, precision=precision, runner=runner_for(precision))


def make_workload(case: Case, streams: int) -> Workload:
    """As `measure.py` uses a deployment."""
    return Workload(
        streams=streams,
        context_tokens=CONTEXT_TOKENS,
        sequences=streams,
        prefill_tokens=1,
        precision=case.precision,
    )


def predict_token_s(
    point: Point, plan: Plan, model: Model, host: Host, servers: Sequence[str]
) -> float:
    """Seconds between two tokens of one of the point's streams."""
    cluster = describe(host, servers, point.condition)
    workload = make_workload(point.case, point.streams)
    return point.streams / predict(plan, model, cluster, workload).tokens_per_s
