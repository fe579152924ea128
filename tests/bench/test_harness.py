"""Which figures a benchmark leaves behind."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

import harness


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("words", "is_default"),
    [([], True), (["--rounds", "7"], True), (["--rounds", "1"], False), (["--fast"], False)],
)
def test_only_a_run_with_default_arguments_is_kept(
    words: list[str], is_default: bool, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_args(words)
    figures, rounds = {"speed": 2.5}, {"speed": [2.0, 3.0]}
    harness.report("name", figures, rounds, is_default=harness.has_defaults(parser, args))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"bench": "name", "speed": 2.5}
    assert results.exists() == is_default
    if is_default:
        kept = json.loads((results / "name.json").read_text())
        assert (kept["speed"], kept["rounds"]) == (2.5, rounds)
        assert kept["machine"]["processors"] > 0
        assert err == ""
    else:
        assert "name.json is written only with default arguments" in err
