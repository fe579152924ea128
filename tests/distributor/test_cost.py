"""Predictions against arithmetic written down apart, and their laws."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from partwise.cluster import Cluster, Curve, Host, LinkSpeed, Rates, Server, Streaming
from partwise.cluster.presets import preset
from partwise.distributor.build import join
from partwise.distributor.cost import Prediction, list_unrated, one_machine, predict
from partwise.distributor.exchange import join_members
from partwise.distributor.footprint import part_footprint
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Member, ModelIdentity, NeuronShare, Part, Plan, Stage
from partwise.distributor.senders import FindSeconds
from partwise.distributor.speed import QUEUED
from partwise.distributor.workload import Workload
from partwise.errors import ClusterError, PlanError
from partwise.model import Model

# The model of conftest: hidden 16, 4 KV groups of 2 query heads of 2, 12 MLP units, biases.
MATRICES = 2 * 16 * 16 + 2 * 8 * 16 + 3 * 12 * 16
BLOCK = MATRICES + 16 + 8 + 8 + 16 + 2 * 16
LINK = LinkSpeed(bandwidth_bytes_per_s=1e6, round_trip_s=1e-3)
ALONE = Workload(context_tokens=10)


def flat(value: float) -> Curve:
    return Curve(x=(1.0,), y=(value,))


def make_host(name: str, *, gb_per_s: float = 1.0, gmacs_per_s: float = 100.0) -> Host:
    """4 cores; all of them read and compute three times what one does."""
    rates = Rates(
        one_core_macs_per_s=flat(gmacs_per_s * 1e9),
        all_cores_macs_per_s=flat(3 * gmacs_per_s * 1e9),
    )
    return Host(
        name=name,
        cores=4,
        memory_bytes=1 << 30,
        one_core_bytes_per_s=flat(gb_per_s * 1e9),
        all_cores_bytes_per_s=flat(3 * gb_per_s * 1e9),
        rates={"fp32": rates, "int8": rates},
    )


def make_cluster(*hosts: Host, threads: int = 1, on: str = "") -> Cluster:
    """A server ``s0``, ``s1``, ... on each host, or as many on the hosts that ``on`` lists."""
    names = on.split() or [host.name for host in hosts]
    servers = tuple(
        Server(name=f"s{i}", host=name, threads=threads, memory_bytes=1 << 28)
        for i, name in enumerate(names)
    )
    return Cluster(hosts=hosts, servers=servers, default_link=LINK)


def make_plan(model: Model, *stages: Stage, find_s: FindSeconds | None = None) -> Plan:
    """Part ``pN`` is on server ``sN``."""
    parts = [member.part for stage in stages for member in stage.members]
    return Plan(
        strategy="test",
        model=ModelIdentity(
            name=model.name,
            architecture=model.architecture,
            fingerprint=model.fingerprint,
            num_layers=len(model.layers),
        ),
        stages=stages,
        parts=tuple(Part(name=part, server=part.replace("p", "s")) for part in parts),
        links=join(stages, find_s),
        placements=place_parameters(model, stages),
    )


def cut(model: Model, *cuts: int) -> Plan:
    bounds = pairwise((0, *cuts, len(model.layers)))
    return make_plan(
        model,
        *(
            Stage(start=start, stop=stop, members=(Member(part=f"p{i}"),))
            for i, (start, stop) in enumerate(bounds)
        ),
    )


def split(model: Model, num_members: int) -> Plan:
    """All layers by neurons: a KV group and equal MLP units and rows for each member."""

    def cut_evenly(kind: str, count: int, i: int) -> NeuronShare:
        bounds = count * i // num_members, count * (i + 1) // num_members
        return NeuronShare(kind=kind, ranges=(bounds,))

    counts = {"kv_group": 4, "mlp_unit": 12, "vocabulary_row": 30}
    members = tuple(
        Member(part=f"p{i}", neurons=tuple(cut_evenly(k, n, i) for k, n in counts.items()))
        for i in range(num_members)
    )
    return make_plan(model, Stage(start=0, stop=7, members=members))


def run(model: Model, plan: Plan, cluster: Cluster, workload: Workload = ALONE) -> Prediction:
    return predict(plan, model, cluster, workload)


def test_a_part_bound_by_bandwidth_takes_its_bytes_over_it(model: Model) -> None:
    [part] = run(model, cut(model), make_cluster(make_host("h"))).parts
    # One row of the table, the blocks, half the context of K and V, norm and head.
    read = 4 * (16 + 4 * BLOCK + 16 + 30 * 16) + 4 * (16 * 4 * 5)
    assert part.working_set_bytes == read
    assert part.compute_s == pytest.approx(read / 1e9)
    assert part.bound_by == "bandwidth"


def test_a_part_bound_by_compute_takes_its_multiplications_over_their_rate(model: Model) -> None:
    [part] = run(model, cut(model), make_cluster(make_host("h", gmacs_per_s=0.1))).parts
    # Attention over half the context: scores and their sum over values, each 16 wide.
    macs = 4 * (MATRICES + 2 * 16 * 5) + 30 * 16
    assert part.compute_s == pytest.approx(macs / 1e8)
    assert part.bound_by == "compute"


def test_a_call_and_its_layers_cost_overhead(model: Model) -> None:
    host = replace(make_host("h"), call_overhead_s=1e-3, layer_overhead_s=1e-4)
    [part] = run(model, cut(model), make_cluster(host)).parts
    [free] = run(model, cut(model), make_cluster(make_host("h"))).parts
    assert part.compute_s == pytest.approx(free.compute_s + 1e-3 + 7e-4)
    assert part.bound_by == "overhead"


def test_the_working_set_chooses_the_bandwidth(model: Model) -> None:
    cached = Curve(x=(16_000.0, 40_000.0), y=(9e9, 1e9))
    host = replace(make_host("h"), one_core_bytes_per_s=cached, cache_bytes=16_000)
    [whole] = run(model, cut(model), make_cluster(host)).parts
    assert whole.compute_s == pytest.approx(
        whole.working_set_bytes / cached.at(whole.working_set_bytes)
    )
    hosts = host, replace(host, name="i")
    for part in run(model, cut(model, 3), make_cluster(*hosts)).parts:
        assert part.working_set_bytes < 16_000 == part.cache_bytes
        assert part.compute_s == pytest.approx(part.working_set_bytes / 9e9)
    # On one host the two take turns in the same cache: it holds neither.
    for part in run(model, cut(model, 3), make_cluster(host, on="h h")).parts:
        assert part.compute_s > part.working_set_bytes / 8e9


def test_a_curve_that_rises_is_made_to_fall(model: Model) -> None:
    dented = Curve(x=(1e3, 1e4, 1e6), y=(1e9, 1e7, 1e9))
    host = replace(make_host("h"), one_core_bytes_per_s=dented)
    [part] = run(model, cut(model), make_cluster(host)).parts
    assert part.compute_s == pytest.approx(part.working_set_bytes / 1e9)


def stream(host: Host, gb_per_s: float, inputs: int = 16) -> Host:
    """``host`` with kernels that read weights at ``gb_per_s`` a core where no cache holds them;
    all three of its cores' worth together, but one server no faster than a core."""
    streaming = Streaming(
        inputs=inputs,
        one_core_bytes_per_s=flat(gb_per_s * 1e9),
        all_cores_bytes_per_s=flat(3 * gb_per_s * 1e9),
        one_server_bytes_per_s=flat(gb_per_s * 1e9),
    )
    return replace(host, rates={"fp32": replace(host.rates["fp32"], streaming=(streaming,))})


def test_kernels_read_what_no_cache_holds_at_their_own_pace(model: Model) -> None:
    [part] = run(model, cut(model), make_cluster(stream(make_host("h"), 0.25))).parts
    assert part.compute_s == pytest.approx(part.working_set_bytes / 0.25e9)
    # No kernel reads faster than memory.
    [part] = run(model, cut(model), make_cluster(stream(make_host("h"), 5))).parts
    assert part.compute_s == pytest.approx(part.working_set_bytes / 1e9)


def test_what_a_cache_holds_is_not_streamed(model: Model) -> None:
    cached = Curve(x=(16_000.0, 18_000.0), y=(9e9, 1e9))
    host = stream(replace(make_host("h"), one_core_bytes_per_s=cached), 0.5)
    hosts = host, replace(host, name="i")
    for part in run(model, cut(model, 3), make_cluster(*hosts)).parts:
        assert part.working_set_bytes < 16_000
        assert part.compute_s == pytest.approx(part.working_set_bytes / 9e9)
    [whole] = run(model, cut(model), make_cluster(host)).parts
    assert whole.working_set_bytes > 18_000
    assert whole.compute_s == pytest.approx(whole.working_set_bytes / 0.5e9)


def test_kernels_stream_between_the_widths_that_were_measured(model: Model) -> None:
    # Rows of down have 12 weights, all others 16.
    down, weights = 4 * 12 * 16, 4 * MATRICES + 30 * 16
    narrow, wide = (
        stream(make_host("h"), *s).rates["fp32"].streaming for s in ((0.2, 8), (0.5, 64))
    )
    byte_s = sum(
        count / weights * (5 + math.log(width / 8) / math.log(8) * (2 - 5))
        for width, count in ((12, down), (16, weights - down))
    )
    host = make_host("h")
    for streaming, expected in (
        ((*narrow, *wide), byte_s),
        (narrow, 5.0),
        (wide, 2.0),
    ):
        rates = replace(host.rates["fp32"], streaming=streaming)
        here = replace(host, rates={"fp32": rates})
        [part] = run(model, cut(model), make_cluster(here)).parts
        assert part.compute_s == pytest.approx(part.working_set_bytes * expected * 1e-9)


def test_the_threads_of_one_server_may_help_less_than_servers_of_one_thread(model: Model) -> None:
    slow = stream(make_host("h"), 0.25)
    wide = run(model, cut(model), make_cluster(slow, threads=4)).parts[0]
    assert wide.compute_s == pytest.approx(wide.working_set_bytes / 0.25e9)
    streams = replace(ALONE, streams=2)
    apart = run(model, cut(model, 3), make_cluster(slow, on="h h"), streams).parts[0]
    read = apart.working_set_bytes - 4 * 16 - 2 * 4 * 16 * 5  # by one row, not by two
    assert apart.compute_s == pytest.approx(read / 0.25e9)
    rates = replace(make_host("h").rates["fp32"], one_server_macs_per_s=flat(0.05e9))
    host = replace(make_host("h", gmacs_per_s=0.1), rates={"fp32": rates})
    [bound] = run(model, cut(model), make_cluster(host, threads=4)).parts
    macs = 4 * (MATRICES + 2 * 16 * 5) + 30 * 16
    assert bound.compute_s == pytest.approx(macs / 0.05e9)


def test_each_row_costs_overhead_in_each_layer(model: Model) -> None:
    host = replace(make_host("h"), layer_overhead_s=1e-4, row_overhead_s=1e-5)
    streams = replace(ALONE, streams=3)
    [part] = run(model, cut(model), make_cluster(host), streams).parts
    [free] = run(model, cut(model), make_cluster(make_host("h")), streams).parts
    assert part.compute_s == pytest.approx(free.compute_s + 7 * (1e-4 + 3 * 1e-5))


def test_no_more_stages_compute_at_once_than_microbatches_are_in_flight(model: Model) -> None:
    # Four streams in three stages are two microbatches of two rows: two stages compute, each woken
    # while both cores are busy.
    pair = replace(make_host("h"), cores=2, all_cores_bytes_per_s=flat(2e9))
    crowded = make_cluster(pair, on="h h h")
    apart = make_cluster(*(replace(pair, name=name) for name in "hij"))
    plan, streams = cut(model, 2, 4), replace(ALONE, streams=4)
    here, there = run(model, plan, crowded, streams), run(model, plan, apart, streams)
    assert here.num_microbatches == 2
    assert here.parts[1].compute_s == pytest.approx((1 + QUEUED) * there.parts[1].compute_s)
    # Three streams are three microbatches: three threads share what two cores read.
    three = replace(streams, streams=3)
    here, there = run(model, plan, crowded, three), run(model, plan, apart, three)
    assert here.parts[1].compute_s == pytest.approx(1.5 * there.parts[1].compute_s)


def test_one_stream_passes_through_all_parts_and_hops(model: Model) -> None:
    cluster = make_cluster(make_host("h"), make_host("i"), make_host("j"))
    prediction = run(model, cut(model, 2, 4), cluster)
    assert [part.hop_bytes for part in prediction.parts] == [0, 64, 64]
    hop_s = 0.5e-3 + 64 / 1e6
    picks_s = 0.5e-3 + 8 / 1e6
    compute_s = sum(part.compute_s for part in prediction.parts)
    assert prediction.latency_s == pytest.approx(compute_s + 2 * hop_s + picks_s)
    assert prediction.tokens_per_s == pytest.approx(1 / prediction.latency_s)
    assert prediction.hop_bytes_per_token == 128
    assert (prediction.rows, prediction.num_microbatches) == (1, 1)


def test_the_coordinator_beside_the_only_part_costs_a_loopback_round_trip(model: Model) -> None:
    cluster = make_cluster(make_host("h"))
    free = run(model, cut(model), cluster).latency_s
    loopback = LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=2e-3)
    paid = run(model, cut(model), replace(cluster, loopback_link=loopback)).latency_s
    assert paid - free == pytest.approx(2e-3 + 16 / 1e9)
    assert free == pytest.approx(run(model, cut(model), cluster).parts[0].compute_s)


def test_many_streams_fill_the_pipeline_and_the_slowest_binds(model: Model) -> None:
    fast = LinkSpeed(bandwidth_bytes_per_s=1e15, round_trip_s=0.0)
    slow, quick = make_host("h", gb_per_s=0.5), make_host("i")
    cluster = replace(make_cluster(quick, slow, replace(quick, name="j")), default_link=fast)
    prediction = run(model, cut(model, 2, 4), cluster, replace(ALONE, streams=7))
    assert (prediction.rows, prediction.num_microbatches) == (3, 3)
    slowest_s = max(part.busy_s for part in prediction.parts)
    assert slowest_s == prediction.parts[1].busy_s
    assert prediction.tokens_per_s == pytest.approx(7 / (3 * slowest_s))
    assert prediction.bubble == pytest.approx(0)


def test_too_few_streams_leave_a_bubble(model: Model) -> None:
    cluster = make_cluster(*(make_host(name) for name in "hijk"))
    plan = cut(model, 2, 3, 4)
    one, two = (run(model, plan, cluster, replace(ALONE, streams=m)) for m in (1, 2))
    assert two.num_microbatches == 2
    assert two.tokens_per_s == pytest.approx(2 * one.tokens_per_s)
    assert 0.5 < two.bubble < one.bubble < 1


def test_a_slow_link_binds_the_pipeline(model: Model) -> None:
    thin = LinkSpeed(bandwidth_bytes_per_s=1e4, round_trip_s=0.0)
    cluster = replace(make_cluster(make_host("h"), make_host("i")), default_link=thin)
    prediction = run(model, cut(model, 3), cluster, replace(ALONE, streams=200))
    assert prediction.tokens_per_s == pytest.approx(1e4 / 64, rel=1e-2)


def test_rows_share_the_weights_of_a_pass(model: Model) -> None:
    cluster = make_cluster(make_host("h"))
    one, eight = (run(model, cut(model), cluster, replace(ALONE, streams=m)) for m in (1, 8))
    per_row = 4 * 16 + 4 * 16 * 4 * 5
    extra_s = eight.parts[0].compute_s - one.parts[0].compute_s
    assert extra_s == pytest.approx(7 * per_row / 1e9)
    assert eight.tokens_per_s > 4 * one.tokens_per_s


def test_servers_of_one_host_share_it_only_when_they_compute_at_once(model: Model) -> None:
    plan, one = cut(model, 3), make_cluster(make_host("h"), on="h h")
    apart = make_cluster(make_host("h"), make_host("i"))
    for streams, slowdown in ((1, 1.0), (2, 1.0), (8, 1.0)):
        workload = replace(ALONE, streams=streams)
        here, there = run(model, plan, one, workload), run(model, plan, apart, workload)
        # Two of four cores get two cores' worth of the three that all get.
        assert here.parts[0].compute_s == pytest.approx(slowdown * there.parts[0].compute_s)
    full = make_cluster(make_host("h"), threads=4, on="h h")
    free = make_cluster(make_host("h"), make_host("i"), threads=4)
    # Two threads each are started, not four: they read twice, not three times what one does.
    for streams, slowdown in ((1, 1.5), (2, 2.0), (8, 2.0)):
        workload = replace(ALONE, streams=streams)
        here, there = run(model, plan, full, workload), run(model, plan, free, workload)
        assert here.parts[0].compute_s == pytest.approx(slowdown * there.parts[0].compute_s)


def test_more_servers_than_cores_wait_for_each_other_when_all_cores_are_busy(
    model: Model,
) -> None:
    large = replace(make_host("h"), memory_bytes=2 << 30)
    plan, here = cut(model, 1, 2, 3, 4), make_cluster(large, on="h h h h h")
    apart = make_cluster(*(make_host(name) for name in "hijkl"))
    # Of five, four read three times in all what one does, and wait; five only share.
    for streams, slowdown in ((1, 1.0), (3, 1.0), (4, (1 + QUEUED) / (3 / 4)), (5, 1 / (3 / 5))):
        workload = replace(ALONE, streams=streams)
        full, free = run(model, plan, here, workload), run(model, plan, apart, workload)
        assert full.parts[1].compute_s == pytest.approx(slowdown * free.parts[1].compute_s)


def test_members_of_a_stage_compute_at_once_even_for_one_stream(model: Model) -> None:
    here = run(model, split(model, 2), make_cluster(make_host("h"), threads=4, on="h h"))
    there = run(model, split(model, 2), make_cluster(make_host("h"), make_host("i"), threads=4))
    assert here.parts[0].compute_s == pytest.approx(2 * there.parts[0].compute_s)


@pytest.mark.parametrize("num_members", [2, 4])
def test_members_exchange_a_sum_for_every_kind_that_they_split(
    model: Model, num_members: int
) -> None:
    cluster = make_cluster(*(make_host(name) for name in "hijk"[:num_members]))
    prediction = run(model, split(model, num_members), cluster)
    bits = 64 / 1e6
    sum_s = {2: 0.5e-3 + bits, 4: 2 * (0.5e-3 + bits * 3 / 4)}[num_members]
    # A member sends its candidates to each other one.
    pick_s = 0.5e-3 + (num_members - 1) * 16 / 1e6
    # The embedding, attention and MLP of four blocks, and the head's candidates.
    for part in prediction.parts:
        assert part.exchange_s == pytest.approx(9 * sum_s + pick_s)
        assert part.hop_s == part.hop_bytes == 0
    whole = run(model, cut(model), cluster).parts[0]
    shares = [part.working_set_bytes / whole.working_set_bytes for part in prediction.parts]
    assert all(1 / num_members < share < 1.35 / num_members for share in shares)


@pytest.mark.parametrize(
    ("num_senders", "num_targets", "sent_by_one"), [(1, 4, 4), (2, 4, 2), (3, 4, 2), (4, 2, 1)]
)
def test_a_stage_sends_its_hop_to_each_target_one_after_the_other(
    model: Model, num_senders: int, num_targets: int, sent_by_one: int
) -> None:
    hosts = [replace(make_host(name), call_overhead_s=5e-5) for name in "abcdefgh"]
    cluster = make_cluster(*hosts[: num_senders + num_targets])
    prediction = run(model, split_twice(model, num_senders, num_targets), cluster)
    # A fifth of a call for each message more.
    hop_s = 0.5e-3 + sent_by_one * 64 / 1e6 + (sent_by_one - 1) * 1e-5
    first = prediction.parts[num_senders]
    assert first.hop_s == pytest.approx(hop_s)
    assert first.link_s == pytest.approx(sent_by_one * 64 / 1e6)
    assert [part.hop_bytes for part in prediction.parts[num_senders:]] == [64] * num_targets


def test_a_host_sends_and_receives_hops_through_one_card(model: Model) -> None:
    hosts = [make_host(name) for name in "abcd"]
    plan = split_twice(model, 2, 2)
    apart = run(model, plan, make_cluster(*hosts)).parts[2]
    for on in ("a a b c", "a b c c"):
        together = run(model, plan, make_cluster(*hosts, on=on)).parts[2]
        assert together.link_s == pytest.approx(2 * apart.link_s)
    inside = replace(make_cluster(*hosts, on="a a a a"), loopback_link=LINK)
    assert run(model, plan, inside).parts[2].link_s == pytest.approx(apart.link_s)


@pytest.mark.parametrize("num_members", [2, 4])
def test_members_on_one_host_share_its_card(model: Model, num_members: int) -> None:
    hosts = [make_host(name) for name in "abcd"]
    on = "a b" if num_members == 2 else "a a b b"
    cluster = replace(make_cluster(*hosts, on=on), loopback_link=LINK)
    exchange = join_members(cluster, [server.name for server in cluster.servers])
    # Two of a send to two of b, a quarter of the sum in each message.
    busy_s = {2: 64 / 1e6, 4: 2 * 2 * 16 / 1e6}[num_members]
    phases = {2: 1, 4: 2}[num_members]
    assert exchange.sum_s(64) == pytest.approx(phases * (0.5e-3 + busy_s))
    linked = replace(cluster, links={("a", "b"): LINK})
    assert join_members(linked, [server.name for server in cluster.servers]) == exchange


def test_each_message_of_an_exchange_keeps_its_members(model: Model) -> None:
    for call_s, message_s in ((0.0, 0.0), (5e-6, 1e-6), (150e-6, 30e-6), (5e-4, 30e-6)):
        hosts = [replace(make_host(name), call_overhead_s=call_s) for name in "abcd"]
        cluster = make_cluster(*hosts)
        four, two = (
            join_members(cluster, names) for names in (["s0", "s1", "s2", "s3"], ["s0", "s1"])
        )
        assert four.sum_s(0) == pytest.approx(2 * (0.5e-3 + 3 * message_s))
        assert two.sum_s(0) == pytest.approx(0.5e-3 + message_s)


def test_an_exchange_over_loopback_takes_what_was_measured() -> None:
    """8 KB between two members: 64 to 78 us with its wait."""
    cluster = preset("local-2")
    exchange = join_members(cluster, [server.name for server in cluster.servers])
    assert 64e-6 <= exchange.sum_s(8192) <= 78e-6


def test_training_sums_forwards_again_with_checkpoints_and_once_back(model: Model) -> None:
    cluster = make_cluster(make_host("h"), make_host("i"))
    workload = Workload(context_tokens=10, sequences=2, is_training=True)
    sum_s, pick_s = 0.5e-3 + 20 * 64 / 1e6, 0.5e-3 + 20 * 16 / 1e6
    for has_checkpointing, forwards in ((False, 1), (True, 2)):
        asked = replace(workload, has_checkpointing=has_checkpointing)
        [part, _] = run(model, split(model, 2), cluster, asked).parts
        # Attention and MLP of four blocks both ways, the embedding there, the head back.
        num_sums = 8 * (forwards + 1) + forwards + 1
        assert part.exchange_s == pytest.approx(num_sums * sum_s + forwards * pick_s)


def split_twice(model: Model, *nums_members: int) -> Plan:
    """Two stages of so many members: the embedding and two blocks, and the rest."""
    stages, first = [], 0
    for (start, stop), num in zip(((0, 3), (3, 7)), nums_members, strict=True):
        members = split(model, num).stages[0].members
        names = [f"p{first + i}" for i in range(num)]
        stages.append(Stage(start=start, stop=stop, members=tuple(replace_part(members, *names))))
        first += num
    return make_plan(model, *stages)


def test_a_stage_of_two_is_fed_over_the_faster_link(model: Model) -> None:
    members = split(model, 2).stages[0].members
    stages = (
        Stage(start=0, stop=2, members=tuple(replace_part(members, "p0", "p1"))),
        Stage(start=2, stop=7, members=(Member(part="p2"),)),
    )
    cluster = make_cluster(make_host("h"), make_host("i"), make_host("j"))
    quick = LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=1e-5)
    cluster = replace(cluster, links={("s1", "s2"): quick})

    def find_s(source: str, target: str) -> float:
        return cluster.link(source.replace("p", "s"), target.replace("p", "s")).transfer_s(64)

    last = run(model, make_plan(model, *stages, find_s=find_s), cluster).parts[2]
    assert last.hop_s == pytest.approx(0.5e-5 + 64 / 1e9)
    assert last.hop_bytes == 64


def replace_part(members: tuple[Member, ...], *names: str) -> list[Member]:
    return [Member(part=n, neurons=m.neurons) for n, m in zip(names, members, strict=True)]


def test_servers_of_a_host_share_its_cache_evenly(model: Model) -> None:
    host = replace(make_host("h"), cache_bytes=30_001)
    for on, share in (("h", 30_001), ("h h", 15_000), ("h h h", 10_000)):
        assert run(model, cut(model), make_cluster(host, on=on)).parts[0].cache_bytes == share
    assert run(model, cut(model), make_cluster(make_host("h"))).parts[0].cache_bytes is None


def test_energy_is_power_over_tokens_where_every_host_gives_it(model: Model) -> None:
    hosts = replace(make_host("h"), watts=30.0), replace(make_host("i"), watts=20.0)
    prediction = run(model, cut(model, 3), make_cluster(*hosts))
    assert prediction.watts == 50
    assert prediction.joules_per_token == pytest.approx(50 * prediction.latency_s)
    silent = run(model, cut(model, 3), make_cluster(hosts[0], make_host("i")))
    assert silent.watts is silent.joules_per_token is None
    unused = run(model, cut(model), make_cluster(hosts[0], make_host("i")))
    assert unused.watts == 30


def test_memory_is_that_of_the_footprint(model: Model) -> None:
    plan, cluster = cut(model, 3), make_cluster(make_host("h"), make_host("i"))
    workload = Workload(streams=3, sequences=5, context_tokens=20)
    for part in run(model, plan, cluster, workload).parts:
        assert part.memory_bytes == part_footprint(plan, model, part.part, workload).total_bytes


def test_training_computes_three_times_and_sends_back(model: Model) -> None:
    cluster = make_cluster(make_host("h", gmacs_per_s=0.01), make_host("i", gmacs_per_s=0.01))
    workload = Workload(context_tokens=10, sequences=2, is_training=True)
    prediction = run(model, cut(model, 3), cluster, workload)
    macs = 20 * (2 * (MATRICES + 2 * 16 * 5))
    assert prediction.parts[0].compute_s == pytest.approx(3 * macs / 1e7)
    assert prediction.parts[1].hop_bytes == 2 * 20 * 64
    again = run(model, cut(model, 3), cluster, replace(workload, has_checkpointing=True))
    assert again.parts[0].compute_s == pytest.approx(4 * macs / 1e7)
    more = run(model, cut(model, 3), cluster, replace(workload, streams=50))
    assert more.bubble < 0.1 < prediction.bubble
    assert more.tokens_per_s == pytest.approx(20 / more.parts[1].busy_s, rel=0.05)


def test_one_machine_is_a_whole_one_and_the_best_that_holds_the_model(model: Model) -> None:
    small = replace(make_host("h", gb_per_s=9), memory_bytes=1 << 30)
    cluster = make_cluster(small, make_host("i"), make_host("j", gb_per_s=2), on="h i i j")
    best = one_machine(model, cluster, ALONE)
    assert best is not None
    assert best.parts[0].server == "h"
    tight = tuple(replace(s, memory_bytes=1) if s.host == "h" else s for s in cluster.servers)
    best = one_machine(model, replace(cluster, servers=tight), ALONE)
    assert best is not None
    # Two threads of i read as much as one of j.
    assert best.parts[0].compute_s == pytest.approx(best.parts[0].working_set_bytes / 2e9)
    none = tuple(replace(s, memory_bytes=1) for s in cluster.servers)
    assert one_machine(model, replace(cluster, servers=none), ALONE) is None


def test_a_machine_cut_into_servers_is_compared_as_one(model: Model) -> None:
    cluster = make_cluster(make_host("h"), on="h h h h")
    best = one_machine(model, cluster, ALONE)
    assert best is not None
    assert best.parts[0].compute_s == pytest.approx(best.parts[0].working_set_bytes / 3e9)


def test_a_precision_without_rates_is_refused(model: Model) -> None:
    plan = reduce_part(cut(model), "p0", precision="int4")
    with pytest.raises(PlanError, match="host 'h' gives no rates for int4, only for fp32, int8"):
        run(model, plan, make_cluster(make_host("h")))


def test_a_machine_without_rates_is_no_candidate(model: Model) -> None:
    fast = make_host("j", gb_per_s=9)
    unrated = replace(fast, rates={"fp32": fast.rates["fp32"]})
    cluster = make_cluster(make_host("h"), make_host("i", gb_per_s=2), unrated)
    best = one_machine(model, cluster, replace(ALONE, precision="int8"))
    assert best is not None
    assert best.parts[0].server == "i"
    assert list_unrated(cluster, "int8") == ["j"]
    assert list_unrated(cluster, "fp32") == []
    assert one_machine(model, cluster, replace(ALONE, precision="int4")) is None


def test_the_one_machine_is_the_best_by_what_is_asked(model: Model) -> None:
    """One reads fast, the other computes fast: best for few rows and for many."""
    steep = Curve(x=(1.0, 64.0), y=(1e8, 1e8))
    reader = make_host("h", gb_per_s=10)
    rates = Rates(one_core_macs_per_s=steep, all_cores_macs_per_s=steep)
    reader = replace(reader, rates={"fp32": rates})
    cluster = make_cluster(reader, make_host("i", gb_per_s=0.1))
    workload = replace(ALONE, streams=64)
    best = {
        name: one_machine(model, cluster, workload, rank)
        for name, rank in (
            ("latency", lambda p: (p.latency_s,)),
            ("throughput", lambda p: (-p.tokens_per_s,)),
        )
    }
    names = {name: found.parts[0].server for name, found in best.items() if found is not None}
    assert names == {"latency": "h", "throughput": "i"}
    assert one_machine(model, cluster, workload) == best["throughput"]


def test_lower_precision_reads_less(model: Model) -> None:
    cluster = make_cluster(make_host("h"))
    full, quarter = (
        one_machine(model, cluster, replace(ALONE, context_tokens=1, precision=precision))
        for precision in ("fp32", "int8")
    )
    assert full is not None
    assert quarter is not None
    assert quarter.latency_s < 0.3 * full.latency_s


def test_removed_units_are_neither_read_nor_multiplied(model: Model) -> None:
    sparse = reduce_part(cut(model), "p0", mlp_sparsity=0.5)
    slow = make_cluster(make_host("h", gmacs_per_s=0.1))
    for cluster, per_unit_s in ((make_cluster(make_host("h")), 4 / 1e9), (slow, 1 / 1e8)):
        [part] = run(model, sparse, cluster).parts
        [whole] = run(model, cut(model), cluster).parts
        # 6 of 12 units in each of 4 blocks: a row of gate and up, a column of down.
        saved_s = 4 * 6 * 3 * 16 * per_unit_s
        assert whole.compute_s - part.compute_s == pytest.approx(saved_s, rel=0.1)
        assert part.memory_bytes < whole.memory_bytes
        alone = one_machine(model, cluster, replace(ALONE, mlp_sparsity=0.5))
        assert alone is not None
        assert alone.parts[0].compute_s == part.compute_s


def test_each_part_is_read_as_it_is_reduced(model: Model) -> None:
    cluster = make_cluster(make_host("h"), make_host("i"))
    plan = reduce_part(cut(model, 3), "p1", precision="int8")
    before, after = (run(model, p, cluster).parts for p in (cut(model, 3), plan))
    assert before[0] == after[0]
    assert after[1].working_set_bytes < 0.4 * before[1].working_set_bytes


def reduce_part(plan: Plan, name: str, **changes: Any) -> Plan:
    parts = (msgspec.structs.replace(p, **changes) if p.name == name else p for p in plan.parts)
    return msgspec.structs.replace(plan, parts=tuple(parts))


def test_an_unknown_server_is_refused(model: Model) -> None:
    with pytest.raises(ClusterError, match="no server 's1'"):
        run(model, cut(model, 3), make_cluster(make_host("h")))


def test_a_rate_that_falls_with_rows_is_made_to_rise(model: Model) -> None:
    dented = Curve(x=(1.0, 4.0), y=(1e8, 1e6))
    rates = Rates(one_core_macs_per_s=dented, all_cores_macs_per_s=dented)
    host = replace(make_host("h"), rates={"fp32": rates})
    [part] = run(model, cut(model), make_cluster(host), replace(ALONE, streams=4)).parts
    macs = 4 * (4 * (MATRICES + 2 * 16 * 5) + 30 * 16)
    assert part.compute_s == pytest.approx(macs / 1e8)
