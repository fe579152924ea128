"""Which codec a plan's links get: from the arithmetic of a cluster written down here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from partwise.cluster.description import Cluster, Curve, Host, LinkSpeed, Rates, Server
from partwise.distributor import balance_layers
from partwise.distributor.codecs import MIN_GAIN, choose_codecs, explain_codec, with_codec
from partwise.distributor.cost import predict
from partwise.distributor.plan import decode_plan, encode_plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.transfer import CONVERT_CALL_S, CONVERT_S, hop_bytes
from partwise.distributor.workload import Workload
from partwise.errors import PlanError
from partwise.model import Model, open_model

BYTES_PER_S, MACS_PER_S, LAYER_S = 1e9, 1e10, 1e-3


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Model:
    return open_model(tiny_llama)


def pose(model: Model, *mbytes_per_s: float, streams: int = 8, **options: str) -> Problem:
    """A chain of servers, each on a host of its own, joined by links of those speeds."""
    flat = Curve(x=(1.0,), y=(BYTES_PER_S,))
    rates = Rates(
        one_core_macs_per_s=Curve(x=(1.0,), y=(MACS_PER_S,)),
        all_cores_macs_per_s=Curve(x=(1.0,), y=(MACS_PER_S,)),
    )
    names = [f"s{i}" for i in range(len(mbytes_per_s) + 1)]
    hosts = tuple(
        Host(name=f"h{n}", cores=1, memory_bytes=1 << 34, one_core_bytes_per_s=flat,
             all_cores_bytes_per_s=flat, rates={"fp32": rates}, layer_overhead_s=LAYER_S)
        for n in names
    )  # fmt: skip
    links = {
        (names[i], names[i + 1]): LinkSpeed(bandwidth_bytes_per_s=1e6 * speed, round_trip_s=0.0)
        for i, speed in enumerate(mbytes_per_s)
    }
    cluster = Cluster(
        hosts=hosts,
        servers=tuple(Server(name=n, host=f"h{n}", threads=1, memory_bytes=1 << 34) for n in names),
        default_link=LinkSpeed(bandwidth_bytes_per_s=1e12, round_trip_s=0.0),
        links=links,
    )
    workload = Workload(streams=streams, context_tokens=64)
    return Problem(
        model=model, cluster=cluster, workload=workload, servers=tuple(names), options=options
    )


def coded(problem: Problem) -> list[str]:
    plan = choose_codecs(balance_layers(problem.model, list(problem.servers)), problem)
    return [link.codec for link in plan.links]


def rate(problem: Problem, codec: str) -> float:
    plan = with_codec(balance_layers(problem.model, list(problem.servers)), codec)
    return predict(plan, problem.model, problem.cluster, problem.workload).tokens_per_s


@pytest.mark.parametrize("streams", [1, 8, 64])
def test_the_choice_flips_where_the_prediction_says_it_pays(model: Model, streams: int) -> None:
    """Bisection finds the bandwidth of the flip; there the gain is the least that is taken."""
    low, high = 1e-3, 1e4
    for _ in range(50):
        middle = (low * high) ** 0.5
        is_plain = coded(pose(model, middle, streams=streams)) == ["fp32"]
        low, high = (low, middle) if is_plain else (middle, high)
    assert 1e-3 < low < 1e4, "no flip was found"

    def gain(speed: float) -> float:
        problem = pose(model, speed, streams=streams)
        return max(rate(problem, c) / rate(problem, "fp32") for c in ("bf16", "int8"))

    assert gain(low) == pytest.approx(MIN_GAIN, rel=1e-3)
    assert gain(high * 2) < MIN_GAIN < gain(low / 2)


def test_int8_is_taken_only_where_it_gives_more_than_bf16_again(model: Model) -> None:
    seen = []
    for exponent in range(40, -20, -1):
        problem = pose(model, 10 ** (exponent / 10))
        [codec] = coded(problem)
        seen.append(codec)
        if codec == "int8":
            assert rate(problem, "int8") >= MIN_GAIN * rate(problem, "bf16")
        elif codec == "bf16":
            assert rate(problem, "int8") < MIN_GAIN * rate(problem, "bf16")
    # From fast to slow: never back to more bytes, and fp16 never.
    order = ["fp32", "bf16", "int8"]
    assert [order.index(codec) for codec in seen] == sorted(order.index(c) for c in seen)
    assert set(seen) >= {"fp32", "int8"}


def test_only_the_slow_link_of_a_chain_is_packed_and_the_note_names_it(model: Model) -> None:
    problem = pose(model, 1000.0, 0.05)
    plan = choose_codecs(balance_layers(model, list(problem.servers)), problem)
    assert [link.codec for link in plan.links] == ["fp32", "int8"]
    [note] = plan.notes
    rates = [
        predict(p, model, problem.cluster, problem.workload).tokens_per_s
        for p in (plan, with_codec(plan, "fp32"))
    ]
    assert note == (
        f"links part1 > part2: int8, which changes results, for {rates[0]:,.4g} tokens/s instead"
        f" of {rates[1]:,.4g} with fp32 are predicted"
    )
    assert "no smaller codec" in explain_codec(plan, problem, plan.links[0])
    assert "changes results" in explain_codec(plan, problem, plan.links[1])


def test_a_link_keeps_fp32_where_another_one_sets_the_pace(model: Model) -> None:
    # Over the first a pass would come sooner with int8, and then wait at the second.
    assert coded(pose(model, 0.5, 0.5, streams=64)) == ["int8", "int8"]
    assert coded(pose(model, 0.5, 0.05, streams=64)) == ["fp32", "int8"]


def test_two_servers_of_one_host_send_fp32_however_slow_their_link_is(model: Model) -> None:
    problem = pose(model, 0.01)
    host = replace(problem.cluster.hosts[0], cores=2)
    servers = tuple(replace(s, host=host.name, memory_bytes=1 << 30) for s in
                    problem.cluster.servers)  # fmt: skip
    together = replace(problem.cluster, hosts=(host,), servers=servers)
    assert coded(problem) == ["int8"]
    assert coded(replace(problem, cluster=together)) == ["fp32"]


def test_a_hop_is_priced_by_its_bytes_and_by_what_packing_takes(model: Model) -> None:
    """Every figure recomputed from the widths alone."""
    width, rows = model.hidden_size, 4
    problem = pose(model, 2.0, streams=2 * rows)
    plain = balance_layers(model, list(problem.servers))
    sizes = {"fp32": 4 * width, "bf16": 2 * width, "fp16": 2 * width, "int8": width + 28}
    for codec, row_bytes in sizes.items():
        plan = with_codec(plain, codec)
        cost = predict(plan, model, problem.cluster, problem.workload).parts[1]
        convert_s = 0.0
        if codec != "fp32":
            convert_s = CONVERT_CALL_S[codec] + rows * width * CONVERT_S[codec]
        assert hop_bytes(model, rows, codec) == rows * row_bytes
        assert cost.hop_bytes == rows * row_bytes
        assert cost.hop_s == pytest.approx(rows * row_bytes / 2e6 + convert_s)
        assert cost.link_s == pytest.approx(rows * row_bytes / 2e6)


def test_what_is_asked_for_is_taken_and_told_and_every_strategy_does_so(model: Model) -> None:
    problem = pose(model, 1000.0, 1000.0, codec="bf16")
    for name in ("balanced", "greedy", "throughput"):
        plan = STRATEGIES[name].plan(problem)
        assert {link.codec for link in plan.links} == ({"bf16"} if plan.links else set())
        assert [n for n in plan.notes if "links: bf16, as asked" in n] or not plan.links
    assert coded(pose(model, 0.05, codec="fp32")) == ["fp32"]
    with pytest.raises(PlanError, match="the codec 'zip' is not known: give one of fp32, bf16"):
        coded(pose(model, 0.05, codec="zip"))


def test_links_of_training_carry_fp32(model: Model) -> None:
    problem = pose(model, 0.05)
    training = replace(problem, workload=replace(problem.workload, is_training=True))
    assert coded(training) == ["fp32"]


def test_codecs_travel_with_the_plan(model: Model) -> None:
    plan = with_codec(balance_layers(model, ["a", "b", "c"]), "int8")
    assert decode_plan(encode_plan(plan)) == plan
    assert [link.codec for link in plan.links] == ["int8", "int8"]
