"""`partwise plan --cluster` from its arguments to its streams and files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partwise.cli.main import main
from partwise.cli.planning import problem
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import write_cluster, write_host
from partwise.distributor import read_plan, verify_plan
from partwise.distributor.contest import GOALS
from partwise.distributor.cost import one_machine, predict
from partwise.distributor.footprint import part_footprint
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.model import open_model

Run = Callable[..., str]


@pytest.fixture
def plan(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``partwise plan --cluster``; what it wrote to stdout."""

    def run(cluster: str, *words: object) -> str:
        options = [str(word) for word in words]
        assert main(["plan", str(tiny_llama), "--cluster", cluster, *options]) == 0
        return capsys.readouterr().out

    return run


# The table, the picture and what is expected


def test_the_table_the_picture_and_the_outlook_follow_each_other(plan: Run) -> None:
    options = ("--strategy", "balanced", "--streams", "8", "--context", "64")
    lines = plan("home", *options).splitlines()
    assert " over home, fp32 weights, 8 streams, KV cache for 8 x 64 tokens: strategy" in lines[0]
    columns = (
        "server layers neurons % GiB of GiB working set MiB cache MiB ms a pass hop ms hop codec"
        " bound by"
    )
    assert lines[2].split() == columns.split()
    rule = lines.index("┌" + "─" * 98 + "┐")
    servers = [line.split()[0] for line in lines[4 : rule - 1]]
    assert set(servers) <= {"desktop", "laptop", "old-desktop", "board"}
    end = lines.index("└" + "─" * 98 + "┘")
    assert all(any(server in line for line in lines[rule:end]) for server in servers)
    below = lines[end + 2 :]
    assert below[0].startswith("expected: ")
    assert "tokens/s at 8 streams" in below[0]
    assert "ms a token alone" in below[0]
    assert "J a token" in below[0]
    assert below[1].startswith("beats one machine for one stream: ")
    assert below[2].startswith("beats one machine at 8 streams: ")


def test_the_document_is_what_the_cost_model_says(
    plan: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    options = ("--strategy", "count", "--only", "laptop,desktop", "--streams", "4")
    document = json.loads(plan("home", *options, "--context", "64", "--out", out, "--json"))
    model, cluster = open_model(tiny_llama), preset("home").only(["laptop", "desktop"])
    made, workload = read_plan(out), Workload(streams=4, context_tokens=64)
    prediction = predict(made, model, cluster, workload)
    (one,) = document["plans"]
    assert document["servers"] == ["laptop", "desktop"]
    assert one["expected"]["tokens_per_s"] == prediction.tokens_per_s
    assert one["expected"]["latency_s"] == prediction.latency_s
    assert one["expected"]["joules_per_token"] == prediction.joules_per_token
    assert [part["server"] for part in one["parts"]] == ["laptop", "desktop"]
    for part, cost in zip(one["parts"], prediction.parts, strict=True):
        assert part["pass_s"] == cost.busy_s
        assert part["memory_bytes"] == part_footprint(made, model, cost.part, workload).total_bytes
        assert part["working_set_bytes"] == cost.working_set_bytes
        assert part["neurons_percent"]["kv_group"] == 50
        assert (part["start_layer"], part["stop_layer"]) == (0, len(model.layers))
    alone = one_machine(model, cluster, workload)
    assert alone is not None
    latency, throughput = one["beats_one_machine"]
    assert throughput["speedup"] == prediction.tokens_per_s / alone.tokens_per_s
    assert (latency["measure"], latency["streams"], throughput["streams"]) == ("latency", 1, 4)


def test_every_number_of_the_document_has_a_unit(plan: Run) -> None:
    units = ("_bytes", "_s", "_tokens", "_percent", "_per_token", "_per_s", "_streams")
    plain = ("num_", "start_", "stop_", "is_", "has_")
    known = ("streams", "rows", "bubble", "watts", "speedup", "mlp_sparsity")
    named = ("kv_group", "mlp_unit", "vocabulary_row")

    def check(tree: Any, key: str = "") -> None:
        if isinstance(tree, dict):
            for name, value in tree.items():
                check(value, name)
        elif isinstance(tree, list):
            for value in tree:
                check(value, key)
        elif isinstance(tree, int | float):
            assert key.endswith(units) or key.startswith(plain) or key in (*known, *named), key

    for words in ([], ["--compare"], ["--streams", "1,8"]):
        check(json.loads(plan("home", *words, "--json")))


def test_the_plan_and_its_picture_are_written(plan: Run, tiny_llama: Path, tmp_path: Path) -> None:
    out, svg = tmp_path / "plan.json", tmp_path / "plan.svg"
    plan("local-3", "--out", out, "--svg", svg, "--strategy", "balanced")
    made = read_plan(out)
    verify_plan(made, open_model(tiny_llama), [f"local-{i}" for i in range(3)])
    drawn = svg.read_text()
    assert drawn.startswith("<svg ")
    assert all(f">{part.server}<" in drawn for part in made.parts)
    assert "beats one machine for one stream" in drawn


def test_a_probed_host_is_cut(plan: Run, tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text(write_host(preset("epyc-8").hosts[0]))
    probed = json.loads(plan("local-2", "--host", path, "--json"))
    typical = json.loads(plan("local-2", "--json"))
    assert probed["plans"][0]["expected"] != typical["plans"][0]["expected"]


def test_a_cluster_file_and_its_preset_give_the_same_plan(plan: Run, tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(write_cluster(preset("home")))
    from_file, from_preset = (json.loads(plan(str(name), "--json")) for name in (path, "home"))
    assert from_file["plans"] == from_preset["plans"]


def test_training_is_planned_in_microbatches(plan: Run) -> None:
    options = ("--train", "--context", "64", "--sequences", "4", "--streams", "2")
    text = plan("epyc-8", *options, "--strategy", "greedy")
    assert "training on 2 microbatches of 4 x 64 tokens" in text
    assert "over 2 microbatches a step" in text
    assert "beats one machine for one microbatch: " in text
    saved, again = (
        json.loads(plan("epyc-8", *options, *words, "--strategy", "greedy", "--json"))["plans"][0]
        for words in ((), ("--checkpointing",))
    )
    assert again["parts"][0]["memory_bytes"] != saved["parts"][0]["memory_bytes"]
    assert again["expected"]["tokens_per_s"] < saved["expected"]["tokens_per_s"]


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (r"(one_core_gmacs_per_s = \[).*", r"\g<1>1e-21, 1e-21, 1e-21, 1e-21]"),
        (r"(all_cores_gmacs_per_s = \[).*", r"\g<1>1e-21, 1e-21, 1e-21, 1e-21]"),
        (r"(bandwidth_gb_per_s = \[).*", r"\g<1>1e-21, 1e-21]"),
        (r"(bandwidth_gb_per_s = )[0-9].*", r"\g<1>1e-21"),
        (r"(round_trip_us = ).*", r"\g<1>1e12"),
        (r"(watts = ).*", r"\g<1>1e18"),
        (r"(call_overhead_us = ).*", r"\g<1>1e12"),
    ],
)
@pytest.mark.parametrize("strategy", ["greedy", "count"])
def test_the_slowest_of_all_machines_still_has_figures(
    plan: Run, tmp_path: Path, pattern: str, value: str, strategy: str
) -> None:
    path = tmp_path / "lab.toml"
    text, count = re.subn(pattern, value, write_cluster(preset("home")))
    assert count
    path.write_text(text)
    options = ("--only", "laptop,desktop", "--strategy", strategy, "--context", "64")
    json.loads(plan(str(path), *options, "--json"), parse_constant=pytest.fail)
    assert "expected: " in plan(str(path), *options)


def test_a_lower_precision_takes_less(plan: Run) -> None:
    full, less = (
        json.loads(plan("home", "--precision", precision, "--strategy", "greedy", "--json"))
        for precision in ("fp32", "int8")
    )
    assert less["precision"] == less["plans"][0]["parts"][0]["precision"] == "int8"
    sizes = [one["plans"][0]["parts"][0]["working_set_bytes"] for one in (full, less)]
    assert sizes[1] < sizes[0]


def test_several_plans_for_training_count_microbatches(
    plan: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--train", "--context", "64", "--streams", "1,8,32", "--strategy", "balanced")
    text = plan("home", *options)
    assert "over 8 microbatches a step" in text
    assert "stream" not in text
    words = ["plan", str(tmp_path), "--help"]
    with pytest.raises(SystemExit):
        main(words)
    shown = " ".join(capsys.readouterr().out.split())
    assert "decoded at a time, with --train microbatches a step" in shown


# All strategies side by side


def test_the_comparison_has_a_row_for_each_and_one_machine(plan: Run) -> None:
    text = plan("home", "--compare", "--only", "laptop,desktop", "--percent", "70,30")
    lines = text.splitlines()
    rows = lines[4 : lines.index("", 4)]
    names = [row.partition("  ")[0].partition(":")[0] for row in rows]
    assert names.count("one machine") == 1
    assert {"greedy", "balanced", "count", "percentage", "compute"} <= set(names)
    assert "beats one machine for one stream" in lines[2]
    assert all("yes, " in row or "no: " in row for row in rows if "one machine" not in row)
    assert any(line.startswith("balanced for one stream: no: ") for line in lines)
    last = "not tried without their options: layers (--layers), type (--types), ids (--ids)"
    assert lines[-1] == last
    options = ("--only", "laptop,desktop", "--percent", "70,30", "--json")
    assert json.loads(plan("home", "--compare", *options))["not_tried"] == [
        {"strategy": "layers", "obstacle": "needs --layers NAME=0:10,..."},
        {"strategy": "type", "obstacle": "needs --types KIND=NAME,..."},
        {"strategy": "ids", "obstacle": "needs --ids LAYERS/KIND/NAME=0:3,7"},
    ]


@pytest.mark.parametrize("goal", GOALS)
def test_the_comparison_is_ranked_by_its_goal(plan: Run, goal: str) -> None:
    document = json.loads(plan("home", "--compare", "--goal", goal, "--streams", "8", "--json"))
    (comparison,) = document["comparisons"]
    assert comparison["goal"] == goal
    figures = [
        (c["expected"]["latency_s"], -c["expected"]["tokens_per_s"], c["num_servers"])
        for c in comparison["candidates"]
        if c["expected"]
    ]
    column = list(GOALS).index(goal)
    assert [row[column] for row in figures] == sorted(row[column] for row in figures)
    assert len(figures) > 2


def test_a_strategy_that_fits_nothing_says_so_below_the_table(plan: Run) -> None:
    text = plan("epyc-8", "--compare")
    assert "\ncount: 8 servers are more than the 2 granules of kv_group in a layer" in text


def test_each_number_of_streams_is_compared(plan: Run) -> None:
    document = json.loads(plan("home", "--compare", "--streams", "1,16", "--json"))
    assert [one["streams"] for one in document["comparisons"]] == [1, 16]


def test_goals_are_those_of_the_distributor() -> None:
    assert tuple(GOALS) == problem.GOALS


def test_the_strategies_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["plan", "--list-strategies"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    for name, strategy in STRATEGIES.items():
        assert f"\n{name} " in out
        assert strategy.HELP in out


# The default strategy


def test_without_a_strategy_the_best_predicted_plan_is_taken(plan: Run) -> None:
    (one,) = json.loads(plan("home", "--json"))["plans"]
    assert one["strategy"] == "auto"
    assert one["made_by"] in STRATEGIES
    assert f": strategy auto ({one['made_by']}), " in plan("home").splitlines()[0]
    assert any(f"{one['made_by']} wins for latency" in note for note in one["notes"])


@pytest.mark.parametrize(
    ("words", "goal"),
    [
        ((), "latency"),
        (("--streams", "1"), "latency"),
        (("--streams", "8"), "throughput"),
        (("--streams", "1,8"), "throughput"),
        (("--streams", "8", "--goal", "latency"), "latency"),
    ],
)
def test_the_goal_is_what_the_streams_have_most_of(
    plan: Run, words: tuple[str, ...], goal: str
) -> None:
    for one in json.loads(plan("home", *words, "--compare", "--json"))["comparisons"]:
        assert one["goal"] == goal
    for one in json.loads(plan("home", *words, "--json"))["plans"]:
        assert any(f" wins for {goal} with " in note for note in one["notes"])


def test_reasons_are_told_once_where_strategies_share_a_plan(plan: Run) -> None:
    text = plan("home", "--compare", "--only", "laptop,desktop")
    assert "\nconnectivity: count  " in text
    assert "\ncount for one stream: no: " in text
    assert "\nconnectivity for one stream: " not in text
    assert "\nauto for one stream: " not in text


# Codecs of links


def test_the_codec_of_each_link_stands_in_the_table_with_its_reason(
    plan: Run, tmp_path: Path
) -> None:
    options = ("--strategy", "balanced", "--keep-order", "--only", "desktop,laptop")
    path = tmp_path / "plan.json"
    out = plan("home", *options)
    assert "links: fp32, no smaller codec is predicted to give 1.05 x the tokens/s" in out
    out = plan("home", *options, "--codec", "int8", "--out", path)
    assert out.splitlines()[5].split()[-2:] == ["int8", out.splitlines()[5].split()[-1]]
    assert "links: int8, as asked" in out
    assert "note: links: int8, as asked, which changes results" in out
    assert [link.codec for link in read_plan(path).links] == ["int8"]
    document = json.loads(plan("home", *options, "--codec", "int8", "--json"))["plans"][0]
    assert document["links"] == [
        {
            "source": "part0",
            "target": "part1",
            "codec": "int8",
            "why": "as asked",
            "bandwidth_bytes_per_s": 37.5e6,
        }
    ]
    assert document["parts"][1]["input_codecs"] == ["int8"]


def test_training_takes_no_codec(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(tiny_llama), "--cluster", "home", "--train", "--codec", "int8"]
    assert main(words) == 2
    assert "--codec int8 is for inference" in capsys.readouterr().err
