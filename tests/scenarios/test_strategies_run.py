"""The plan of every strategy runs: what its parts say is compared with transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import VOCAB_SIZE
from partwise.distributor import Plan
from partwise.distributor.codecs import with_codec
from partwise.distributor.strategies import STRATEGIES
from partwise.model import Model
from support.oracle import Oracle, random_prompts
from support.parts import Setting
from support.planning import GIB, make_cluster, make_problem, pose

LENGTHS, MAX_TOKENS = (130, 3, 1, 20), 5
MLP_UNITS = 160


def take_turns(count: int) -> dict[str, list[int]]:
    """Every other neuron."""
    return {"s0": list(range(0, count, 2)), "s1": list(range(1, count, 2))}


OPTIONS: dict[str, dict[str, Any]] = {
    "percentage": {"percentages": [70, 30]},
    "ids": {
        "ids": {
            "*": {
                "kv_group": {"s0": "1", "s1": "0"},
                "mlp_unit": take_turns(MLP_UNITS),
                "vocabulary_row": take_turns(VOCAB_SIZE),
            }
        }
    },
    "layers": {"layers": {"s0": (0, 1), "s1": (1, 6)}},
    "type": {"types": {"attention": ["s1"], "mlp": ["s0", "s1"], "head": ["s0"]}},
}
"""What strategies are asked besides the servers; of others nothing."""


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    torch.set_num_threads(1)
    return Oracle()


def plan_by(name: str) -> Callable[[Model], Plan]:
    def plan(model: Model) -> Plan:
        problem = make_problem(model, 2, **OPTIONS.get(name, {}))
        return with_codec(STRATEGIES[name].plan(problem), "fp32")

    return plan


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_plan_of_a_strategy_says_what_transformers_says(
    name: str, tiny_llama: Path, oracle: Oracle
) -> None:
    setting = Setting(make_plan=plan_by(name))
    comparison = oracle.compare(tiny_llama, random_prompts(*LENGTHS), MAX_TOKENS, setting)
    assert comparison.is_within_bounds, comparison


@pytest.mark.parametrize("name", ["greedy", "balanced", "auto", "compute"])
def test_a_plan_for_unequal_servers_with_little_memory_runs(
    name: str, tiny_llama: Path, oracle: Oracle
) -> None:
    cluster = make_cluster([1.0, 2.0, 0.5], [GIB, GIB // 8, GIB // 4])

    def plan(model: Model) -> Plan:
        return with_codec(STRATEGIES[name].plan(pose(model, cluster)), "fp32")

    comparison = oracle.compare(
        tiny_llama, random_prompts(*LENGTHS), MAX_TOKENS, Setting(make_plan=plan)
    )
    assert comparison.is_within_bounds, comparison
