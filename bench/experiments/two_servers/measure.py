"""Times tokens of every layout under every condition, round by round.

A round deploys each layout once, in a changing order, and measures all conditions with it. Prompts
have one token, so that a point takes as long as its tokens do; what takes longer than SLOW_S a
token is left out of every second round.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import partwise
from experiments.two_servers.cases import FREE, Case, Layout, Point, list_points
from experiments.two_servers.hosts import TwoServers
from experiments.two_servers.outcome import Outcome
from experiments.two_servers.predicted import make_plan, predict_token_s
from partwise.cluster import Host
from partwise.distributor import Plan
from partwise.model import open_model
from quiet import measure_quietly

BUDGET_S, MAX_GAPS = 0.5, 16
"""So long a point is measured, in so many tokens at most; one token at least."""
SLOW_S = 1.0
MAX_TRIES = 2
"""Of one point in one round, where others disturb it; what is slow they disturb little."""
SETTLE_S = 0.2
"""After a deployment ended its servers are free for the next one."""
PROMPT_IDS = (1,)
MAX_APART = 0.25
"""Of a pass: tokens of one pass are reported one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A layout over servers that are reached by one of the ways, and what it is measured for."""

    case: Case
    layout: Layout
    is_long: bool
    plan: Plan
    predicted: dict[Point, float]


def measure_case(case: Case, host: Host, servers: TwoServers, num_rounds: int) -> list[Outcome]:
    """All points of a case."""
    every = list(_list_deployed(case, host, servers))
    times: dict[Point, list[float]] = {point: [] for each in every for point in each.predicted}
    generator = random.Random(0)
    for number in range(num_rounds):
        generator.shuffle(every)
        for each in every:
            is_due = {p: not (number % 2 and s > SLOW_S) for p, s in each.predicted.items()}
            points = [point for point, due in is_due.items() if due]
            generator.shuffle(points)
            for point, token_s in _measure(each, servers, points):
                times[point].append(token_s)
        print(f"{case.name}: round {number + 1} of {num_rounds}", file=sys.stderr, flush=True)
    predicted = {point: s for each in every for point, s in each.predicted.items()}
    order = [p for layout in Layout for p in list_points(case, layout)]
    return [
        Outcome(
            case=case.name,
            layout=point.layout,
            streams=point.streams,
            condition=point.condition,
            token_s=tuple(times[point]),
            predicted_s=predicted[point],
        )
        for point in order
    ]


def _list_deployed(case: Case, host: Host, servers: TwoServers) -> Iterator[Deployed]:
    model = open_model(case.path)
    for layout, is_long in product(Layout, (False, True)):
        addresses = servers.addresses(is_long=is_long)
        points = [
            point
            for point in list_points(case, layout)
            if servers.needs_long(point.condition) == is_long
        ]
        if not points:
            continue
        plan = make_plan(case, layout, model, host, addresses)
        predicted = {p: predict_token_s(p, plan, model, host, addresses) for p in points}
        yield Deployed(case=case, layout=layout, is_long=is_long, plan=plan, predicted=predicted)


def _measure(
    each: Deployed, servers: TwoServers, points: Sequence[Point]
) -> Iterator[tuple[Point, float]]:
    options = partwise.DeployOptions(threads=1, token_file=servers.token_file)
    used = [part.server for part in each.plan.parts]
    servers.change(FREE)
    with partwise.deploy(each.case.path, servers=used, plan=each.plan, options=options) as net:
        for streams in each.case.streams:  # to warm up
            time_token(net, streams, MAX_GAPS)
        for point in points:
            servers.change(point.condition)
            num_gaps = max(1, min(round(BUDGET_S / each.predicted[point]), MAX_GAPS))
            run = partial(time_token, net, point.streams, num_gaps)
            max_tries = 1 if each.predicted[point] > SLOW_S else MAX_TRIES
            yield point, measure_quietly(run, servers.pids, max_tries).value
        servers.change(FREE)
    time.sleep(SETTLE_S)


def time_token(net: partwise.Net, streams: int, num_gaps: int) -> float:
    """Seconds between two tokens of a stream, while all streams decode together."""
    # The first token of several streams comes in different passes.
    num_more = 1 if streams == 1 else 3
    request = partwise.Request(prompt_ids=PROMPT_IDS, max_tokens=num_gaps + num_more)
    generations = [net.submit(request) for _ in range(streams)]
    for generation in generations:
        for _ in generation:
            pass
    return average_gap([generation.token_times_s for generation in generations])


def average_gap(times_s: Sequence[Sequence[float]]) -> float:
    """The average time between tokens of one stream, from when all streams have begun until the
    first one ends."""
    gaps = [(a, b) for each in times_s for a, b in pairwise(each)]
    apart_s = MAX_APART * statistics.median(b - a for a, b in gaps)
    start_s = max(each[0] for each in times_s) - apart_s
    stop_s = min(each[-1] for each in times_s) + apart_s
    return statistics.mean(b - a for a, b in gaps if start_s <= a and b <= stop_s)
