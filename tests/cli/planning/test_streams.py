"""`partwise plan --cluster --streams 1,8,64`: a plan for each, and where they change over."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partwise.cli.main import main
from partwise.cluster.presets import preset
from partwise.distributor import read_plan
from partwise.distributor.adaptive import plan_adaptive
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.workload import Workload
from partwise.model import open_model

SIZES = [1, 8, 64]
OPTIONS = ["--streams", "1,8,64", "--context", "256", "--strategy"]


@pytest.fixture
def run(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Run it on the real model, so that plans differ; its stdout and stderr."""

    def run(*words: object) -> tuple[str, str]:
        assert main(["plan", str(smollm2), *map(str, words)]) == 0
        return capsys.readouterr()

    return run


def expect(smollm2: Path, cluster: str, strategy: str) -> Any:
    servers = tuple(server.name for server in preset(cluster).servers)
    problem = Problem(
        model=open_model(smollm2),
        cluster=preset(cluster),
        workload=Workload(context_tokens=256),
        servers=servers,
    )
    return plan_adaptive(problem, STRATEGIES[strategy], SIZES)


def list_parts(plan: Plan) -> list[tuple[str, int]]:
    return [(part.server, plan.stage_of(part.name).start) for part in plan.parts]


@pytest.mark.parametrize(("cluster", "strategy"), [("home", "balanced"), ("local-3", "balanced")])
def test_each_number_of_streams_gets_its_best_plan(
    run, smollm2: Path, cluster: str, strategy: str
) -> None:
    document = json.loads(run("--cluster", cluster, *OPTIONS, strategy, "--json")[0])
    adaptive = expect(smollm2, cluster, strategy)
    assert [plan["streams"] for plan in document["plans"]] == SIZES
    for plan in document["plans"]:
        found = [(part["server"], part["start_layer"]) for part in plan["parts"]]
        assert found == list_parts(adaptive.plan_at(plan["streams"]))
    assert document["change_over_streams"] == list(adaptive.change_overs)
    assert [one["streams"] for one in document["one_plan_for_all"]] == SIZES


def test_the_text_shows_each_plan_once_and_every_figure(run, smollm2: Path) -> None:
    out, _ = run("--cluster", "home", *OPTIONS, "balanced")
    adaptive = expect(smollm2, "home", "balanced")
    assert out.count("\nserver ") == len(adaptive.plans)
    for streams in SIZES:
        assert out.count(f"at {streams} stream") >= 1
    for span in adaptive.spans[1:]:
        assert f"\nfrom {span.start} stream" in out
    assert ("without changing over: " in out) == (len(adaptive.spans) > 1)


def test_the_file_holds_the_one_plan_for_all(run, smollm2: Path, tmp_path: Path) -> None:
    out, svg = tmp_path / "plan.json", tmp_path / "plan.svg"
    _, err = run("--cluster", "home", *OPTIONS, "balanced", "--out", out, "--svg", svg)
    assert read_plan(out) == expect(smollm2, "home", "balanced").overall
    assert "64 streams" in svg.read_text()
    assert err == "note: written is the one plan for all numbers of streams\n"


def test_notes_are_those_of_the_streams_that_they_stand_beside(run, tmp_path: Path) -> None:
    out, svg = tmp_path / "plan.json", tmp_path / "plan.svg"
    options = ("--cluster", "home", "--streams", "1,8,64", "--json", "--out", out, "--svg", svg)
    document = json.loads(run(*options)[0])
    seen = 0
    for one in (*document["plans"], *document["one_plan_for_all"]):
        figures = [
            float(found.replace(",", ""))
            for note in one["notes"]
            for found in re.findall(r"wins for throughput with ([\d,.]+) tokens/s", note)
        ]
        rate = one["expected"]["tokens_per_s"]
        assert figures == pytest.approx([rate] * len(figures), rel=1e-2)
        seen += len(figures)
    assert seen >= 3
    # The one for all is another's than that for 64 streams, with which the picture is headed.
    assert document["one_plan_for_all"][-1]["notes"] == []
    assert " wins for " not in svg.read_text()
    assert read_plan(out).notes == ()
