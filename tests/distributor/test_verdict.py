"""Does a plan beat one machine? Each answer, and each reason, on a cluster made for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.cluster import Cluster, Curve, LinkSpeed, Rates
from partwise.distributor.cost import one_machine, predict
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.slowdown import format_ms
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.verdict import DENSE, ONLY_WAY, Verdict, format_ratio, judge
from partwise.distributor.workload import Workload
from partwise.model import Model
from support.planning import GIB, make_cluster

FAST = LinkSpeed(bandwidth_bytes_per_s=1e12, round_trip_s=0)
SLOW = LinkSpeed(bandwidth_bytes_per_s=1e12, round_trip_s=0.1)
NARROW = LinkSpeed(bandwidth_bytes_per_s=1e3, round_trip_s=0)
BLOCKS = {"s0": "0:2", "s1": "2:4"}


STEP = Curve(x=(8.0, 16.0), y=(1e4, 1e6))


def flat(value: float) -> Curve:
    return Curve(x=(1.0,), y=(value,))


def make_servers(*speeds: float, link: LinkSpeed = FAST, **changes: Any) -> Cluster:
    """Servers that a layer's reading alone keeps busy, whatever their cache."""
    values: dict[str, Any] = {
        "call_overhead_s": 0.0,
        "one_core_bytes_per_s": flat(1e6),
        "all_cores_bytes_per_s": flat(1e6),
    }
    cluster = make_cluster(speeds, [GIB] * len(speeds), **(values | changes))
    hosts = tuple(
        replace(
            host,
            one_core_bytes_per_s=flat(host.one_core_bytes_per_s.y[0] * speed),
            all_cores_bytes_per_s=flat(host.all_cores_bytes_per_s.y[0] * speed),
        )
        for host, speed in zip(cluster.hosts, speeds, strict=True)
    )
    return replace(cluster, hosts=hosts, default_link=link)


def make_plan(
    strategy: str, model: Model, cluster: Cluster, workload: Workload, **options: Any
) -> Plan:
    names = tuple(server.name for server in cluster.servers)
    problem = Problem(
        model=model, cluster=cluster, workload=workload, servers=names, options=options
    )
    return STRATEGIES[strategy].plan(problem)


def by_measure(verdicts: tuple[Verdict, ...]) -> dict[str, Verdict]:
    return {verdict.measure: verdict for verdict in verdicts}


def test_a_pipeline_beats_one_machine_by_throughput_and_not_by_latency(model: Model) -> None:
    cluster, workload = make_servers(1, 1), Workload(streams=8, context_tokens=4)
    plan = make_plan("balanced", model, cluster, workload)
    verdicts = by_measure(judge(plan, model, cluster, workload))
    ours, alone = predict(plan, model, cluster, workload), one_machine(model, cluster, workload)
    assert alone is not None
    assert verdicts["throughput"].speedup == ours.tokens_per_s / alone.tokens_per_s
    assert verdicts["latency"].speedup == pytest.approx(alone.latency_s / ours.latency_s)
    assert verdicts["latency"].streams == 1


def test_neurons_over_two_machines_halve_the_latency(model: Model) -> None:
    cluster, workload = make_servers(1, 1), Workload(context_tokens=4)
    plan = make_plan("count", model, cluster, workload)
    (verdict,) = judge(plan, model, cluster, workload)
    assert verdict.measure == "latency"
    assert verdict.speedup is not None
    assert 1.7 < verdict.speedup < 2
    assert str(verdict) == f"yes, {verdict.speedup:.1f} \N{MULTIPLICATION SIGN}"


def test_where_no_machine_holds_the_model_parts_are_the_only_way(model: Model) -> None:
    workload = Workload(streams=2, context_tokens=4, prefill_tokens=4)
    plan = make_plan("balanced", model, make_servers(1, 1), workload)
    needed = max(p.memory_bytes for p in predict(plan, model, make_servers(1, 1), workload).parts)
    cluster = make_servers(1, 1)
    servers = tuple(replace(server, memory_bytes=needed) for server in cluster.servers)
    for verdict in judge(plan, model, replace(cluster, servers=servers), workload):
        assert (verdict.speedup, verdict.beats_one_machine) == (None, True)
        assert str(verdict) == ONLY_WAY


def test_one_stream_is_judged_with_the_caches_of_all(model: Model) -> None:
    workload = Workload(streams=50, context_tokens=1000, prefill_tokens=4)
    cluster = make_servers(1, 1)
    plan = make_plan("balanced", model, cluster, workload)
    whole = one_machine(model, cluster, workload)
    assert whole is not None
    needed = whole.parts[0].memory_bytes * 9 // 10
    servers = tuple(replace(server, memory_bytes=needed) for server in cluster.servers)
    verdicts = judge(plan, model, replace(cluster, servers=servers), workload)
    assert [verdict.speedup for verdict in verdicts] == [None, None]


def test_a_plan_gets_no_credit_for_its_precision(model: Model) -> None:
    rates = Rates(one_core_macs_per_s=flat(1e12), all_cores_macs_per_s=flat(1e12))
    cluster = make_servers(1, 1, rates={"fp32": rates, "int4": rates})
    workload = Workload(context_tokens=4)
    plan = make_plan("count", model, cluster, workload)
    parts = tuple(msgspec.structs.replace(part, precision="int4") for part in plan.parts)
    reduced = msgspec.structs.replace(plan, parts=parts)
    (verdict,), (full,) = (judge(p, model, cluster, workload) for p in (reduced, plan))
    assert verdict.speedup is not None
    assert full.speedup is not None
    assert verdict.speedup < full.speedup * 1.05
    # Rates that nobody knows do not stop the verdict.
    hosts = (cluster.hosts[0], replace(cluster.hosts[1], rates={"fp32": rates}))
    half = (parts[0], plan.parts[1])
    mixed = msgspec.structs.replace(plan, parts=half)
    judge(mixed, model, replace(cluster, hosts=hosts), workload)


@pytest.mark.parametrize(
    ("strategy", "options", "cluster", "workload", "reason"),
    [
        ("layers", {"layers": BLOCKS}, make_servers(1, 1, link=SLOW), {}, "hops over links take"),
        ("count", {}, make_servers(1, 1, link=SLOW), {}, "the exchange between members takes"),
        (
            "layers",
            {"layers": BLOCKS},
            make_servers(1, 1, call_overhead_s=1.0),
            {},
            "2 of 2 parts are bound by overhead: 's0' spends more of",
        ),
        ("layers", {"layers": BLOCKS}, make_servers(1, 0.1), {}, "server 's1' computes"),
        ("layers", {"layers": {"s1": "0:4"}}, make_servers(9, 1), {}, "for 100 % of what is read"),
        ("layers", {"layers": {"s0": "0:4"}}, make_servers(1, 1), {}, "the plan is one machine"),
    ],
)
def test_what_costs_one_stream_most_is_named(
    model: Model,
    strategy: str,
    options: dict[str, Any],
    cluster: Cluster,
    workload: dict[str, Any],
    reason: str,
) -> None:
    asked = Workload(context_tokens=4, **workload)
    plan = make_plan(strategy, model, cluster, asked, **options)
    (verdict,) = judge(plan, model, cluster, asked)
    assert not verdict.beats_one_machine
    assert reason in str(verdict)
    assert str(verdict).startswith("no: ")


@pytest.mark.parametrize(
    ("strategy", "options", "cluster", "workload", "reason"),
    [
        ("layers", {"layers": BLOCKS}, make_servers(1, 1, link=NARROW), {}, "the link into 's1'"),
        ("count", {}, make_servers(1, 1, link=NARROW), {}, "the exchange between members takes"),
        (
            "layers",
            {"layers": BLOCKS},
            make_servers(1, 1, call_overhead_s=1.0),
            {},
            "2 of 2 parts are bound by overhead",
        ),
        ("layers", {"layers": BLOCKS}, make_servers(1, 0.1), {}, "server 's1' computes"),
        (
            "layers",
            {"layers": BLOCKS},
            make_servers(1, 1, link=SLOW),
            {"streams": 2},
            "% of the time: hops over links take",
        ),
        (
            # 16 rows of a pass cost less than 8.
            "layers",
            {"layers": BLOCKS},
            make_servers(
                1, 1, rates={"fp32": Rates(one_core_macs_per_s=STEP, all_cores_macs_per_s=STEP)}
            ),
            {},
            "2 passes of 8 rows take",
        ),
        (
            "layers",
            {"layers": BLOCKS},
            make_servers(1, 1, link=SLOW),
            {"streams": 2, "is_training": True},
            "hops over links take",
        ),
        (
            "layers",
            {"layers": {"s0": "0:3", "s1": "3:4"}},
            make_servers(1, 0.34),
            {"streams": 2, "is_training": True},
            "a step of 2 microbatches fills and drains the pipeline",
        ),
        ("layers", {"layers": {"s0": "0:4"}}, make_servers(1, 1), {}, "the plan is one machine"),
    ],
)
def test_what_costs_many_streams_most_is_named(
    model: Model,
    strategy: str,
    options: dict[str, Any],
    cluster: Cluster,
    workload: dict[str, Any],
    reason: str,
) -> None:
    asked = Workload(**({"streams": 16, "context_tokens": 4} | workload))
    plan = make_plan(strategy, model, cluster, asked, **options)
    verdict = by_measure(judge(plan, model, cluster, asked))["throughput"]
    assert not verdict.beats_one_machine
    assert reason in str(verdict)


def test_a_machine_that_nobody_measured_is_left_out_and_named(model: Model) -> None:
    cluster, workload = make_servers(1, 1, 9), Workload(context_tokens=4, precision="int8")
    *rated, last = cluster.hosts
    hosts = [replace(host, rates=host.rates | {"int8": host.rates["fp32"]}) for host in rated]
    mixed = replace(cluster, hosts=(*hosts, last))
    plan = make_plan("layers", model, mixed, workload, layers=BLOCKS)
    (verdict,) = judge(plan, model, mixed, workload)
    assert verdict.speedup is not None
    assert str(verdict).endswith(" (not compared: h-s2, without rates for int8)")
    # The only one that holds the model.
    needed = max(part.memory_bytes for part in predict(plan, model, mixed, workload).parts)
    servers = tuple(
        server if server.name == "s2" else replace(server, memory_bytes=needed)
        for server in mixed.servers
    )
    (verdict,) = judge(plan, model, replace(mixed, servers=servers), workload)
    assert str(verdict) == f"{ONLY_WAY} (not compared: h-s2, without rates for int8)"


def test_what_connectivity_spares_is_said_not_to_be_predicted(model: Model) -> None:
    cluster, workload = make_servers(1, 1), Workload(context_tokens=4)
    plan = make_plan("count", model, cluster, workload)
    sparse = msgspec.structs.replace(plan, strategy="connectivity")
    (dense,), (spared,) = (judge(p, model, cluster, workload) for p in (plan, sparse))
    assert dense.caveats == ()
    assert spared.caveats == (DENSE,)
    assert str(spared) == f"{dense} ({DENSE})"


@pytest.mark.parametrize(
    ("seconds", "text"), [(26.683, "26,683"), (0.1, "100"), (0.0999, "99.9"), (1.234e-6, "0.00123")]
)
def test_milliseconds_are_written_as_in_tables(seconds: float, text: str) -> None:
    assert format_ms(seconds) == text


@given(st.floats(1e-6, 1e4))
def test_a_ratio_as_text_stays_on_its_side_of_one(ratio: float) -> None:
    shown = float(format_ratio(ratio))
    assert (shown < 1, shown > 1) == (round(ratio, 2) < 1, round(ratio, 2) > 1)
    assert shown == pytest.approx(ratio, rel=0.5)


@pytest.mark.parametrize(
    ("seconds", "text"), [(26.683, "26,683"), (0.1, "100"), (0.0123456, "12.3"), (0.0, "0")]
)
def test_milliseconds_are_written_as_in_the_tables(seconds: float, text: str) -> None:
    assert format_ms(seconds) == text
