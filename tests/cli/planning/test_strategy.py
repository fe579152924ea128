"""What the strategies' own options mean, and that every strategy can be run with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partwise.cli.main import main
from partwise.cli.planning.strategy import DEFAULT_STRATEGY, STRATEGY_OPTIONS
from partwise.distributor import read_plan
from partwise.distributor.plan import Plan
from partwise.distributor.strategies import STRATEGIES

FULL = {
    "percentage": ["--percent", "local-1=25,local-0=75"],
    "ids": ["--ids", "*/mlp_unit/local-0=0:40", "--ids", "*/mlp_unit/local-1=40:160"],
    "layers": ["--layers", "local-1=0:2,local-0=2:6"],
    "type": ["--types", "attention=local-1,mlp=local-0+local-1"],
}


def make(model: Path, out: Path, strategy: str, *words: str) -> Plan:
    options = ["--cluster", "local-2", "--strategy", strategy, "--out", str(out), *words]
    assert main(["plan", str(model), *options]) == 0
    return read_plan(out)


def count_owned(plan: Plan, part: str, kind: str) -> int:
    (member,) = (m for stage in plan.stages for m in stage.members if m.part == part)
    ranges = [r for share in member.neurons if share.kind == kind for r in share.ranges]
    return sum(stop - start for start, stop in ranges)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_plans_from_the_command_line(
    strategy: str, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make(tiny_llama, tmp_path / "plan.json", strategy, *FULL.get(strategy, []))
    assert {part.server for part in plan.parts} <= {"local-0", "local-1"}
    assert "expected: " in capsys.readouterr().out


def test_options_reach_their_strategy(tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    plan = make(tiny_llama, out, "percentage", *FULL["percentage"])
    assert [count_owned(plan, part.name, "mlp_unit") for part in plan.parts] == [120, 40]
    plan = make(tiny_llama, out, "ids", *FULL["ids"])
    assert [count_owned(plan, part.name, "mlp_unit") for part in plan.parts] == [40, 120]
    plan = make(tiny_llama, out, "layers", *FULL["layers"])
    assert [(part.server, plan.stage_of(part.name).start) for part in plan.parts] == [
        ("local-1", 0),
        ("local-0", 3),
    ]
    plan = make(tiny_llama, out, "type", *FULL["type"])
    assert [count_owned(plan, part.name, "kv_group") for part in plan.parts] == [0, 2]
    plan = make(tiny_llama, out, "count", "--granules", "mlp_unit=64,vocabulary_row=128")
    assert [count_owned(plan, part.name, "mlp_unit") for part in plan.parts] == [128, 32]


def test_entries_of_ids_that_overlap_are_told(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["--ids", "*/mlp_unit/local-0=0:160"]
    later = ["--ids", "1:3/mlp_unit/local-1=0:160", "--ids", "1:3/kv_group/local-1=0:2"]
    plan = make(tiny_llama, tmp_path / "plan.json", "ids", *first, *later)
    note = "note: --ids 1:3/mlp_unit replaces */mlp_unit in 2 layers: the later entry wins"
    assert note in capsys.readouterr().err.splitlines()
    # Each has all of them, in the layers that are left to it.
    assert [count_owned(plan, part.name, "mlp_unit") for part in plan.parts] == [160, 160]
    make(tiny_llama, tmp_path / "plan.json", "ids", *FULL["ids"])
    assert "replaces" not in capsys.readouterr().err


def test_every_option_is_for_strategies_that_exist() -> None:
    assert DEFAULT_STRATEGY in STRATEGIES
    for option in STRATEGY_OPTIONS:
        assert set(option.strategies) <= set(STRATEGIES)


def test_notes_of_the_strategy_are_told(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(tiny_llama), "--cluster", "local-2", "--strategy", "percentage"]
    words += ["--percent", "70,30"]
    assert main(words) == 0
    note = "kv_group: asked 70 / 30 %, given 50 / 50 % (2 neurons in granules of 1,"
    assert f"\nnote: {note}" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert any(line.startswith(note) for line in plan["notes"])
