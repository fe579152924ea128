"""Each member of a stage has the hidden state from one of the stage before: the plan says which."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.cluster.description import LinkSpeed
from partwise.distributor import decode_plan, encode_plan
from partwise.distributor.build import build_plan, join
from partwise.distributor.codecs import with_codec
from partwise.distributor.cost import predict
from partwise.distributor.plan import Member, NeuronShare, Stage
from partwise.distributor.senders import choose_senders, find_senders
from partwise.distributor.workload import Workload
from partwise.model import Model
from support.planning import GIB, make_cluster, pose

NAMES = st.lists(st.integers(0, 99).map(str), min_size=1, max_size=6, unique=True)


@given(NAMES, NAMES, st.randoms(use_true_random=False))
def test_no_sender_has_two_more_targets_than_another(senders, targets, rng) -> None:
    seconds = {(s, t): rng.choice([1.0, 2.0, 3.0]) for s in senders for t in targets}
    for find_s in (None, lambda s, t: seconds[s, t]):
        chosen = choose_senders(senders, targets, find_s)
        counts = Counter(dict.fromkeys(senders, 0))
        counts.update(chosen)
        assert len(chosen) == len(targets)
        assert max(counts.values()) - min(counts.values()) <= 1


@given(NAMES, NAMES)
def test_links_that_are_alike_are_taken_in_turn(senders, targets) -> None:
    assert choose_senders(senders, targets, lambda s, t: 1.0) == choose_senders(senders, targets)


def split_rows(names: tuple[str, ...], start: int, stop: int) -> Stage:
    """Layers ``start:stop``, whose MLP units the parts share."""
    bounds = [12 * i // len(names) for i in range(len(names) + 1)]
    members = [
        Member(part=name, neurons=(NeuronShare(kind="mlp_unit", ranges=((a, b),)),))
        for name, a, b in zip(names, bounds, bounds[1:], strict=False)
    ]
    return Stage(start=start, stop=stop, members=tuple(members))


def test_of_the_links_to_a_part_the_first_is_that_of_its_sender() -> None:
    stages = (
        split_rows(("a", "b"), 0, 2),
        split_rows(("c", "d", "e"), 2, 4),
        split_rows(("f",), 4, 7),
    )
    pairs = [(link.source, link.target) for link in join(stages)]
    assert pairs[:3] == [("a", "c"), ("b", "d"), ("a", "e")]
    assert pairs[6] == ("c", "f")
    assert len(set(pairs)) == len(pairs) == 2 * 3 + 3


@pytest.mark.parametrize("streams", [1, 8])
def test_a_strategys_plan_names_the_faster_sender_to_who_prices_and_who_runs_it(
    model: Model, streams: int
) -> None:
    cluster = make_cluster([1.0] * 4, [GIB] * 4)
    quick = LinkSpeed(bandwidth_bytes_per_s=1e12, round_trip_s=1e-7)
    cluster = replace(cluster, links={("s0", "s3"): quick, ("s1", "s2"): quick})
    workload = Workload(context_tokens=16, streams=streams)
    problem = replace(pose(model, cluster), workload=workload)
    stages = (split_rows(("part0", "part1"), 0, 3), split_rows(("part2", "part3"), 3, 7))
    plan = build_plan(problem, "test", stages, problem.servers)
    for read in (plan, decode_plan(encode_plan(plan)), with_codec(plan, "int8")):
        assert find_senders(read) == {"part2": "part1", "part3": "part0"}
    slow_s = cluster.default_link.round_trip_s / 2
    parts = predict(plan, model, cluster, workload).parts
    assert all(part.hop_s < slow_s for part in parts[2:])
    crossed = msgspec.structs.replace(plan, links=join(stages))
    assert find_senders(crossed) == {"part2": "part0", "part3": "part1"}
    parts = predict(crossed, model, cluster, workload).parts
    assert all(part.hop_s >= slow_s for part in parts[2:])
