"""Whole runs in bf16: parts that generate, and the command with servers of its own."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from oracle_cases import generate, load_network
from oracle_comparison import Comparison, Reference
from partwise.cli.main import main
from partwise.distributor import balance_layers, encode_plan
from partwise.model import open_model
from support.oracle import random_prompts
from support.parts import Parts, Setting

MAX_TOKENS = 8
BOUND = 0.08
"""Of a logit's difference, as a share of the largest logit: its rounding is 2^-9 of it, and that
of every operation before adds up."""


@cache
def generate_in_bf16(path: Path) -> list[Reference]:
    network = load_network(path).bfloat16()
    prompts = random_prompts(60, 3, 1)
    found = [generate(network, prompt, MAX_TOKENS) for prompt in prompts]
    return [Reference(ids=f.ids, logits=f.logits) for f in found]


@pytest.mark.parametrize("num_parts", [1, 2, 3])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_llama_tied", "tiny_gpt2", "tiny_mixtral"])
def test_parts_in_bf16_generate_what_transformers_does_up_to_near_ties(
    model: str, num_parts: int, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    references = generate_in_bf16(path)
    largest = max(np.abs(reference.logits).max() for reference in references)
    comparison = Comparison(model=model, parts=num_parts, mode="bf16", bound=float(BOUND * largest))
    with Parts(path, Setting(num_parts=num_parts, precision="bf16")) as parts:
        assert {part.runner for part in parts.plan.parts} == {"torch"}
        comparison.add_all(references, parts.generate(random_prompts(60, 3, 1), MAX_TOKENS))
    assert comparison.is_within_bounds, comparison


@pytest.mark.usefixtures("started")
def test_generate_computes_in_bf16_and_says_why(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(tiny_llama), "Once", "--raw", "--max-tokens", "4", "--json"]
    assert main([*words, "--parts", "2", "--precision", "bf16"]) == 0
    out, err = capsys.readouterr()
    assert "runner: torch in bf16, because it alone computes bf16" in err
    held = [part["weight_bytes"] for part in json.loads(out)["parts"]]
    assert sum(held) == 2 * open_model(tiny_llama).num_parameters


@pytest.mark.usefixtures("started")
def test_a_device_that_no_server_of_this_machine_has_is_one_line(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(tiny_llama), "Once", "--raw", "--device", "cuda:999"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("partwise: server 'local-0' did not start: cuda:999 is not there: ")
    assert "--device cpu" in err


def test_a_plan_of_another_runner_is_refused_on_a_device(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(
        encode_plan(balance_layers(open_model(tiny_llama), ["local-0"], runner="onnx"))
    )
    words = ["generate", str(tiny_llama), "Once", "--plan", str(plan), "--device", "cuda"]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert "part0 is for the onnx runner, which computes on CPUs alone, and the device is" in err
