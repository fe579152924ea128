"""The strategies that share out what they are told to: each exactly so, or refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from partwise.cluster.description import Cluster, LinkSpeed, Server
from partwise.distributor import decode_plan, encode_plan, verify_plan
from partwise.distributor.by_compute import mac_rate
from partwise.distributor.footprint import part_footprint
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.remedies import add_servers
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.errors import Infeasible, PlanError
from partwise.model import Model
from support.large import describe_llama
from support.planning import GIB, make_cluster, make_host, make_problem, pose


def plan(name: str, problem: Problem) -> Plan:
    found = STRATEGIES[name].plan(problem)
    verify_plan(found, problem.model, problem.servers)
    assert decode_plan(encode_plan(found)) == found
    return found


def count_owned(found: Plan, kind: str, layer: int = 1) -> dict[str, int]:
    """The neurons of a kind by server, counted from the ranges; -1 where it holds layers whole."""
    owned = {}
    for stage in found.stages:
        if stage.start <= layer < stage.stop:
            for member in stage.members:
                shares = [s for s in member.neurons if s.kind == kind and s.is_about(layer)]
                num = sum(b - a for s in shares for a, b in s.ranges)
                owned[found.part(member.part).server] = num if member.neurons else -1
    return owned


def test_count_shares_each_kind_evenly_over_all_layers(model: Model) -> None:
    found = plan("count", make_problem(model, 4))
    assert [(s.start, s.stop) for s in found.stages] == [(0, 7)]
    assert list(count_owned(found, "mlp_unit").values()) == [3, 3, 3, 3]
    assert list(count_owned(found, "kv_group").values()) == [1, 1, 1, 1]
    assert list(count_owned(found, "vocabulary_row", 0).values()) == [8, 8, 7, 7]
    (note,) = found.notes
    assert note == (
        "vocabulary_row: asked 25 / 25 / 25 / 25 %, given 26.67 / 26.67 / 23.33 / 23.33 %"
        " (30 neurons in granules of 1, by largest remainder)"
    )
    rules = {p.parameter: p.rule for p in found.placements}
    assert rules["model.embed_tokens.weight"] == "owned"
    assert rules["model.norm.weight"] == "replicated"


def test_one_server_holds_all_layers_whole(model: Model) -> None:
    found = plan("count", make_problem(model, 1))
    assert count_owned(found, "mlp_unit") == {"s0": -1}
    assert found.notes == ()


def test_more_servers_than_kv_groups_are_infeasible(model: Model) -> None:
    with pytest.raises(Infeasible, match="5 servers are more than the 4 granules of kv_group"):
        plan("count", make_problem(model, 5))


def test_granules_stay_together(model: Model) -> None:
    found = plan("count", make_problem(model, 2, granules={"mlp_unit": 5, "kv_group": 2}))
    assert list(count_owned(found, "mlp_unit").values()) == [10, 2]
    with pytest.raises(Infeasible, match=r"2 granules of kv_group .* \(4 neurons in granules of 2"):
        plan("count", make_problem(model, 3, granules={"kv_group": 2}))


def test_percentages_are_met_exactly_where_neurons_divide(model: Model) -> None:
    for given in ([75, 25], {"s1": 25.0, "s0": 75}):
        found = plan("percentage", make_problem(model, 2, percentages=given))
        assert count_owned(found, "mlp_unit") == {"s0": 9, "s1": 3}
        assert count_owned(found, "kv_group") == {"s0": 3, "s1": 1}
    found = plan("percentage", make_problem(model, 2, percentages=[70, 30]))
    assert count_owned(found, "vocabulary_row", 6) == {"s0": 21, "s1": 9}
    assert count_owned(found, "mlp_unit") == {"s0": 8, "s1": 4}
    assert len(found.notes) == 2


def test_a_percentage_too_small_for_a_neuron_gives_none_of_the_kind(model: Model) -> None:
    found = plan("percentage", make_problem(model, 2, percentages=[95, 5]))
    assert count_owned(found, "kv_group") == {"s0": 4, "s1": 0}
    assert any("kv_group: asked 95 / 5 %, given 100 / 0 %" in note for note in found.notes)


@pytest.mark.parametrize(
    ("percentages", "message"),
    [
        ([70, 29], r"add up to 99, not 100: change one by \+1"),
        ([33.3, 33.3], r"add up to 66.6, not 100: change one by \+33.4"),
        ([100, 0], "percentage of server 's1' is 0: give a number above 0"),
        ([120, -20], "percentage of server 's0' is 120"),
        (["70", "30"], "percentage of server 's0' is '70'"),
        ([float("nan"), 50], "percentage of server 's0' is nan"),
        ([True, 99], "percentage of server 's0' is True"),
        ([100], "give 2, for s0, s1"),
        (None, "percentages are None: give 2, for s0, s1"),
        ({"s0": 70, "lab": 30}, "server 'lab' is unknown; give one for each of s0, s1"),
        ({"s0": 100}, "'s1' has none; give one for each of s0, s1"),
    ],
)
def test_percentages_that_mean_nothing_are_refused(
    model: Model, percentages: Any, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan("percentage", make_problem(model, 2, percentages=percentages))


def test_thirds_as_they_are_written_add_up(model: Model) -> None:
    found = plan("percentage", make_problem(model, 3, percentages=[33.3, 33.3, 33.4]))
    assert list(count_owned(found, "vocabulary_row", 0).values()) == [10, 10, 10]


def test_ids_are_owned_as_listed_by_layer_and_kind(model: Model) -> None:
    ids: dict[str, Any] = {
        "*": {
            "kv_group": {"s0": "0,2:4", "s2": [1]},
            "mlp_unit": {"s0": [(0, 5), 11], "s2": "5:11"},
        },
        "model.layers.2": {"mlp_unit": {"s2": "0:12"}},
        "4:5": {"mlp_unit": {"s0": range(12)}},
    }
    found = plan("ids", make_problem(model, 3, ids=ids))
    assert [part.server for part in found.parts] == ["s0", "s2"]
    assert count_owned(found, "kv_group") == {"s0": 3, "s2": 1}
    assert [count_owned(found, "mlp_unit", i)["s0"] for i in range(1, 5)] == [6, 6, 0, 12]
    (groups,) = [s for s in found.stages[0].members[0].neurons if s.kind == "kv_group"]
    assert groups.ranges == ((0, 1), (2, 4))
    # Nobody named vocabulary rows: they are shared out by count.
    assert count_owned(found, "vocabulary_row", 0) == {"s0": 15, "s2": 15}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"*": {"mlp_unit": {"s0": "0:6", "s1": "7:12"}}}, "mlp_unit 6:7 of model.layers.0 is ow"),
        ({"*": {"mlp_unit": {"s0": "0:6"}}}, "mlp_unit 6:12 of model.layers.0 is owned by nobody"),
        (
            {"*": {"mlp_unit": {"s0": "0:7", "s1": "6:12"}}},
            "mlp_unit 6:7 of model.layers.0 is claimed twice, by 's0' and 's1'",
        ),
        ({"*": {"mlp_unit": {"s0": "0:3,2", "s1": "3:12"}}}, "server 's0': 2 is listed twice"),
        (
            {"model.layers.3": {"mlp_unit": {"s0": "0:6", "s1": "6:13"}}},
            "mlp_unit 6:13 of model.layers.3 for server 's1' is out of range: there are 0:12",
        ),
        ({"*": {"mlp_unit": {"s0": "-1:12"}}}, "-1:12 .* 's0' is out of range"),
        ({"*": {"mlp_unit": {"s0": "all"}}}, "'all' are no identifiers; give '0:3,7'"),
        ({"*": {"mlp_unit": {"s0": "5:5"}}}, "the range 5:5 is empty"),
        ({"*": {"mlp_unit": {"lab": "0:12"}}}, "unknown server 'lab': known are s0, s1"),
        ({"*": {"expert": {"s0": "0:12"}}}, "no neurons of kind 'expert': they have vocab"),
        ({"0:1": {"mlp_unit": {"s0": "0:12"}}}, "'0:1' have no neurons of kind 'mlp_unit'"),
        ({"model.layers.9": {"mlp_unit": {"s0": "0:12"}}}, "no layers are meant by .*within 0:7"),
        ({"3:9": {"mlp_unit": {"s0": "0:12"}}}, "no layers are meant by '3:9'"),
        ({}, "ids are {}: give neurons by layer, kind and server"),
        ({"*": {"mlp_unit": "0:12"}}, "mlp_unit of layers '\\*' is '0:12': give neurons by server"),
        (
            {"0:1": {"vocabulary_row": {"s0": "0:9", "s1": "9:30"}}},
            "'lm_head.weight' is tied .* share their neurons differently",
        ),
    ],
)
def test_ids_that_do_not_own_each_neuron_once_are_refused(
    model: Model, ids: Any, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan("ids", make_problem(model, 2, ids=ids))


def test_layers_go_where_they_are_sent(model: Model) -> None:
    found = plan("layers", make_problem(model, 3, layers={"s2": "0:1", "s0": (1, 4)}))
    assert [(s.start, s.stop) for s in found.stages] == [(0, 2), (2, 7)]
    assert [part.server for part in found.parts] == ["s2", "s0"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"s0": "0:2"}, "blocks 2:4 are held by nobody"),
        ({"s0": "1:4"}, "blocks 0:1 are held by nobody"),
        ({"s0": "0:1", "s1": "2:4"}, "blocks 1:2 are held by nobody"),
        ({"s0": "0:3", "s1": "2:4"}, "blocks 2:3 are claimed twice, by 's0' and 's1'"),
        ({"s0": "0:5"}, "blocks of server 's0' are 0:5, out of range: tiny has blocks 0:4"),
        ({"s0": "2:2"}, "'s0' are 2:2, out of range"),
        ({"s0": "0:1,3:4"}, "'s0' are '0:1,3:4': give start:stop"),
        ({"lab": "0:4"}, "unknown server 'lab': known are s0, s1"),
        (None, "layers are None: give the blocks of each server"),
    ],
)
def test_layers_that_do_not_tile_are_refused(model: Model, layers: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan("layers", make_problem(model, 2, layers=layers))


def test_attention_here_and_mlp_there_is_one_stage(model: Model) -> None:
    types = {"attention": "s0", "mlp": ["s1", "s2"]}
    found = plan("type", make_problem(model, 3, types=types))
    assert [(s.start, s.stop) for s in found.stages] == [(0, 7)]
    assert count_owned(found, "kv_group", 3) == {"s0": 4, "s1": 0, "s2": 0}
    assert count_owned(found, "mlp_unit", 3) == {"s0": 0, "s1": 6, "s2": 6}
    assert count_owned(found, "vocabulary_row", 0) == {"s0": 10, "s1": 10, "s2": 10}


def test_ends_on_servers_of_their_own_are_stages_of_their_own(model: Model) -> None:
    types = {"embedding": "s3", "block": ["s0", "s1"], "attention": "s1", "head": "s2"}
    found = plan("type", make_problem(model, 4, types=types))
    assert [(s.start, s.stop) for s in found.stages] == [(0, 1), (1, 6), (6, 7)]
    assert count_owned(found, "kv_group") == {"s0": 0, "s1": 4}
    assert count_owned(found, "mlp_unit") == {"s0": 6, "s1": 6}
    assert count_owned(found, "vocabulary_row", 6) == {"s2": -1}


def test_a_server_named_for_layers_apart_holds_all_between_in_one_stage(model: Model) -> None:
    types = {"embedding": "s0", "block": "s1", "head": "s0"}
    found = plan("type", make_problem(model, 2, types=types))
    assert [(s.start, s.stop) for s in found.stages] == [(0, 7)]
    assert count_owned(found, "mlp_unit") == {"s0": 0, "s1": 12}
    assert count_owned(found, "vocabulary_row", 6) == {"s0": 30, "s1": 0}


def test_tied_ends_of_one_stage_are_shared_alike(model: Model) -> None:
    types = {"embedding": "s1", "block": ["s0", "s1"]}
    found = plan("type", make_problem(model, 2, types=types))
    assert count_owned(found, "vocabulary_row", 0) == {"s0": 0, "s1": 30}
    assert count_owned(found, "vocabulary_row", 6) == {"s0": 0, "s1": 30}
    types["head"] = "s0"
    with pytest.raises(Infeasible, match="lm_head are tied .* name the same servers for both"):
        plan("type", make_problem(model, 2, types=types))


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"expert": "s0"}, "tiny has no kind 'expert': it has block, embedding, head, kv_group"),
        ({"mlp": "lab"}, "'mlp' goes to the unknown server 'lab': known are s0, s1"),
        ({"mlp": []}, r"servers of 'mlp' are \[\]: name each once, at least 1"),
        ({"mlp": ["s0", "s0"]}, "name each once"),
        ({"mlp": "s0", "mlp_unit": "s1"}, "servers of 'mlp_unit' are 's1': name each once"),
        ({}, "types are {}: give servers by kind"),
    ],
)
def test_types_that_mean_nothing_are_refused(
    model: Model, types: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan("type", make_problem(model, 2, types=types))


def test_compute_in_training_follows_the_rates_of_a_microbatch(model: Model) -> None:
    problem = pose(model, make_cluster([1.0], [GIB]))
    training = Workload(is_training=True, streams=1, sequences=2, context_tokens=64)
    # 1e10 MACs a second at 1 row, 3e10 at 128.
    assert mac_rate(problem, "s0") == 1e10
    assert mac_rate(replace(problem, workload=training), "s0") == 3e10


def test_compute_follows_the_rates_of_the_servers_threads(model: Model) -> None:
    # One core makes 1e10 MACs/s, four make 3e10; 3 threads 1e10 + 2/3 of the difference.
    cluster = Cluster(
        hosts=(make_host("h"), make_host("g")),
        servers=(
            Server(name="one", host="h", threads=1, memory_bytes=GIB),
            Server(name="three", host="h", threads=3, memory_bytes=GIB),
            Server(name="four", host="g", threads=4, memory_bytes=GIB),
        ),
        default_link=LinkSpeed(bandwidth_bytes_per_s=1e9, round_trip_s=1e-4),
    )
    found = plan("compute", pose(replace(model, name="tiny"), cluster))
    # 1 : 2.33 : 3 of 30 rows are 4.7, 11.05 and 14.2.
    assert list(count_owned(found, "vocabulary_row", 0).values()) == [5, 11, 14]


def test_a_precision_without_a_rate_is_infeasible(model: Model) -> None:
    problem = pose(model, make_cluster([1.0, 2.0], [GIB, GIB]))
    lower = replace(problem, workload=replace(problem.workload, precision="int8"))
    with pytest.raises(Infeasible, match="host 'h-s0' .* has no rate at int8, only at fp32"):
        STRATEGIES["compute"].plan(lower)


def test_a_share_that_does_not_fit_its_server_says_what_is_missing(model: Model) -> None:
    problem = pose(model, make_cluster([1.0, 1.0], [GIB, 4096]))
    with pytest.raises(Infeasible, match=r"part1 needs .* server 's1' offers .* KiB more"):
        plan("count", problem)


def test_random_shares_are_exactly_those_asked(
    make_synthetic: Callable[[random.Random], Any],
) -> None:
    rng = random.Random(5)
    for _ in range(60):
        model = make_synthetic(rng).model
        cut = rng.randint(1, 99)
        for name, given, ideal in (
            ("percentage", {"percentages": [cut, 100 - cut]}, cut / 100),
            ("count", {}, 0.5),
        ):
            problem = make_problem(model, 2, **given)
            fewest = min(kind.count for layer in model.layers for kind in layer.neuron_kinds)
            if name == "count" and fewest < 2:
                with pytest.raises(Infeasible, match="are more than the 1 granules"):
                    plan(name, problem)
                continue
            found = plan(name, problem)
            for i, layer in enumerate(model.layers):
                for kind in layer.neuron_kinds:
                    owned = count_owned(found, kind.name, i)
                    assert sum(owned.values()) in {kind.count, -1}
                    if -1 not in owned.values():
                        assert abs(owned["s0"] - ideal * kind.count) <= 0.5 + 1e-9


def lower(problem: Problem, precision: str) -> Problem:
    """The problem at another precision, which its hosts compute."""
    cluster = problem.cluster
    rates = cluster.hosts[0].rates["fp32"]
    hosts = tuple(replace(h, rates={"fp32": rates, precision: rates}) for h in cluster.hosts)
    workload = replace(problem.workload, precision=precision)
    return replace(problem, cluster=replace(cluster, hosts=hosts), workload=workload)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("count", {}),
        ("compute", {}),
        ("percentage", {"percentages": [50, 30, 20]}),
        ("type", {"types": {"mlp": ["s0", "s1", "s2"], "attention": "s0"}}),
        ("ids", {"ids": {"*": {"kv_group": {"s0": "0:4", "s1": "4:7", "s2": "7:8"}}}}),
        ("connectivity", {}),
    ],
)
def test_int4_keeps_its_blocks_whole(name: str, options: dict[str, Any]) -> None:
    # No share of 1,000 units falls on a block of 32 by itself.
    model = describe_llama(
        num_blocks=2, hidden=256, inner=1000, heads=8, kv_heads=8, vocabulary=1000
    )
    found = plan(name, lower(make_problem(model, 3, **options), "int4"))
    bounds = {
        bound
        for member in found.stages[0].members
        for share in member.neurons
        if share.kind == "mlp_unit"
        for pair in share.ranges
        for bound in pair
    }
    assert len(bounds) == 4
    assert all(bound % 32 == 0 for bound in bounds - {1000})


def test_ids_inside_an_int4_block_are_refused_with_the_nearest(heavy_ends_model: Model) -> None:
    ids = {"*": {"mlp_unit": {"s0": "0:1029", "s1": "1029:1536"}}}
    problem = lower(make_problem(heavy_ends_model, 2, ids=ids), "int4")
    with pytest.raises(PlanError, match=r"1029, where 32 must .* the nearest that fits is 1024"):
        plan("ids", problem)


def test_four_servers_can_share_three_groups_by_percentage(heavy_ends_model: Model) -> None:
    found = plan("percentage", make_problem(heavy_ends_model, 4, percentages=[40, 30, 20, 10]))
    assert list(count_owned(found, "kv_group").values()) == [1, 1, 1, 0]


def test_a_server_that_gets_nothing_is_left_out(model: Model) -> None:
    found = plan("percentage", make_problem(model, 3, percentages=[50, 49, 1]))
    assert [part.server for part in found.parts] == ["s0", "s1"]
    assert found.notes[-1] == "left out, for its share has no neuron of any kind: s2"


def test_shares_that_hardly_differ_are_told_apart(heavy_ends_model: Model) -> None:
    found = plan("percentage", make_problem(heavy_ends_model, 2, percentages=[67, 33]))
    for note in found.notes:
        asked, given = note.split("asked ")[1].split(" %, given ")
        assert asked != given.split(" %")[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("count", {"granules": {"mlp_unit": 0}}, "granule of mlp_unit is 0: give a whole number"),
        ("count", {"granules": {"mlp_unit": 1.5}}, "granule of mlp_unit is 1.5"),
        ("auto", {"granules": {"mlp_unit": -3}}, "granule of mlp_unit is -3"),
        ("count", {"granules": {"expert": 2}}, "'expert', no neurons of tiny"),
        ("count", {"granules": [2]}, r"granules are \[2\]: give"),
        ("ids", {"ids": {"*": 5}}, "ids of layers '\\*' are 5: give them by kind"),
        ("type", {"types": {"mlp": 5}}, "servers of 'mlp' are 5: give a name, or a list"),
        ("auto", {"goal": []}, r"goal \[\] is not known"),
        ("connectivity", {"masks": {"a": 1, 3: 1}}, "mask for 3, no parameter"),
        ("layers", {"layers": {"s0": (0.9, 4.2)}}, r"'s0' are \(0.9, 4.2\): give start:stop"),
    ],
)
def test_options_of_another_form_are_refused(
    name: str, options: dict[str, Any], message: str, model: Model
) -> None:
    with pytest.raises(PlanError, match=message):
        plan(name, make_problem(model, 2, **options))


@pytest.mark.parametrize("key", ["streams", "sequences", "context_tokens"])
def test_a_workload_beyond_all_measure_is_refused(key: str) -> None:
    with pytest.raises(PlanError, match=f"{key} is 99999999999999999999, it may be"):
        Workload(**{key: 99999999999999999999})


def test_shares_that_do_not_fit_name_three_remedies_that_suffice(model: Model) -> None:
    rich = make_problem(model, 2)
    needed = [
        part_footprint(f, model, p.name, rich.workload).total_bytes
        for f in (plan("count", rich),)
        for p in f.parts
    ]
    rates = make_host("any").rates["fp32"]
    cluster = make_cluster(
        [1.0] * 2, [round(0.8 * n) for n in needed], rates={"fp32": rates, "fp16": rates}
    )
    for name in ("count", "compute"):
        problem = pose(model, cluster)
        with pytest.raises(Infeasible) as error:
            plan(name, problem)
        words = str(error.value)
        assert "and 1 other part lacks memory: needed is" in words
        remedies = re.search(r"KiB more in all, or fp16, or (\d+) more servers? of", words)
        assert remedies, words
        num_more = int(remedies[1])
        assert plan(name, replace(problem, workload=replace(problem.workload, precision="fp16")))
        assert plan(name, add_servers(problem, "s0", num_more))
        if num_more > 1:
            with pytest.raises(Infeasible):
                plan(name, add_servers(problem, "s0", num_more - 1))
