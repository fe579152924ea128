"""The comparison of bench/oracle.py must fail when the model is broken.

Random tiny models can hide a broken model behind repeated tokens, so each mutation must
move the logits far beyond the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from oracle_comparison import BOUND
from partwise.distributor import Plan
from partwise.engine.scheduler import Limits
from partwise.launch.listening import make_torch_runner
from partwise.model import Model
from partwise.part.runner import Runner, RunnerOptions
from partwise.part.torch import attention, kv
from partwise.part.torch.experts import Experts
from partwise.part.torch.families import Gpt2Family, LlamaFamily
from support.oracle import Oracle, random_prompts
from support.parts import Setting
from support.sharing import share_layers

MARGIN = 50
"""By how many bounds each mutation must move the logits."""
PROMPTS = random_prompts(200, 5, seed=11)
MAX_TOKENS = 6
NORM_EPSILON = 1e-2  # of the models in tests/conftest.py

Patch = pytest.MonkeyPatch


def no_rope(patch: Patch) -> None:
    original = LlamaFamily.block_arguments

    def block_arguments(self: LlamaFamily, positions_1N: torch.Tensor) -> dict[str, Any]:
        cos, sin = original(self, positions_1N)["position_embeddings"]
        return {"position_embeddings": (torch.ones_like(cos), torch.zeros_like(sin))}

    patch.setattr(LlamaFamily, "block_arguments", block_arguments)


def rope_off_by_one(patch: Patch) -> None:
    original = LlamaFamily.block_arguments

    def block_arguments(self: LlamaFamily, positions_1N: torch.Tensor) -> dict[str, Any]:
        # Decoded tokens only: RoPE knows distances, not where all tokens start.
        return original(self, positions_1N + (positions_1N.shape[1] == 1))

    patch.setattr(LlamaFamily, "block_arguments", block_arguments)


def no_positions(patch: Patch) -> None:
    original = Gpt2Family.embed

    def embed(
        self: Gpt2Family, module: Any, ids_N: torch.Tensor, positions_1N: torch.Tensor
    ) -> torch.Tensor:
        return original(self, module, ids_N, torch.zeros_like(positions_1N))

    patch.setattr(Gpt2Family, "embed", embed)


def shifted_kv(patch: Patch) -> None:
    """Keys and values after the first pass land one position too early."""
    original = kv.ContiguousRow.__init__

    def init(self: kv.ContiguousRow, held: Any, position: int, start: int, stop: int) -> None:
        original(self, held, max(position - 1, 0), start, stop)

    patch.setattr(kv.ContiguousRow, "__init__", init)


def no_attention(patch: Patch) -> None:
    original = attention.attend_rows

    def attend_rows(*args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        out, _ = original(*args, **options)
        return torch.zeros_like(out), None

    patch.setattr(attention, "attend_rows", attend_rows)


def no_causal_mask(patch: Patch) -> None:
    original = attention.scaled_dot_product_attention

    def attend(*args: Any, **options: Any) -> torch.Tensor:
        return original(*args, **{**options, "is_causal": False, "attn_mask": None})

    patch.setattr(attention, "scaled_dot_product_attention", attend)


def routed_to_other_experts(patch: Patch) -> None:
    from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

    original = MixtralTopKRouter.forward

    def forward(self: Any, hidden: torch.Tensor) -> Any:
        logits, weights, chosen = original(self, hidden)
        return logits, weights, self.num_experts - 1 - chosen

    patch.setattr(MixtralTopKRouter, "forward", forward)


def unweighted_experts(patch: Patch) -> None:
    original = Experts.forward

    def forward(
        self: Experts, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        return original(self, hidden, chosen, torch.full_like(weights, 0.5))

    patch.setattr(Experts, "forward", forward)


Change = Callable[[list[Any]], None]


def skip_a_block(modules: list[Any]) -> None:
    modules[2] = lambda hidden, **_: hidden


def change_an_epsilon(modules: list[Any]) -> None:
    norms = [m for m in modules[2].modules() if "Norm" in type(m).__name__]
    name = "eps" if hasattr(norms[0], "eps") else "variance_epsilon"
    assert getattr(norms[0], name) == NORM_EPSILON
    setattr(norms[0], name, NORM_EPSILON / 10)


def swap_two_experts(modules: list[Any]) -> None:
    experts = modules[2].mlp.experts
    experts["0"], experts["5"] = experts["5"], experts["0"]


def runner_with(
    change: Change | None, parts: Sequence[str] = ("part0",)
) -> Callable[[RunnerOptions], Runner]:
    """Torch runners; the modules of ``parts`` are changed after they were loaded."""

    def make(options: RunnerOptions) -> Runner:
        runner = make_torch_runner(options)
        if change is not None and options.part in parts:
            change(runner._modules)
        return runner

    return make


def nothing(patch: Patch) -> None:
    """Leave the code as it is."""


MUTATIONS: list[tuple[str, Callable[[Patch], None], Change | None]] = [
    ("tiny_llama", no_rope, None),
    ("tiny_llama", rope_off_by_one, None),
    ("tiny_llama", shifted_kv, None),
    ("tiny_llama", no_attention, None),
    ("tiny_llama", no_causal_mask, None),
    ("tiny_llama", nothing, skip_a_block),
    ("tiny_llama", nothing, change_an_epsilon),
    ("tiny_gpt2", no_positions, None),
    ("tiny_gpt2", shifted_kv, None),
    ("tiny_gpt2", no_attention, None),
    ("tiny_gpt2", nothing, skip_a_block),
    ("tiny_gpt2", nothing, change_an_epsilon),
    ("tiny_mixtral", shifted_kv, None),
    ("tiny_mixtral", routed_to_other_experts, None),
    ("tiny_mixtral", unweighted_experts, None),
    ("tiny_mixtral", nothing, swap_two_experts),
    ("tiny_mixtral", nothing, change_an_epsilon),
]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.mark.parametrize(
    ("model", "mutate", "change"),
    [pytest.param(*case, id=f"{case[0]}-{(case[2] or case[1]).__name__}") for case in MUTATIONS],
)
def test_the_comparison_fails_when_the_model_is_broken(
    model: str,
    mutate: Callable[[Patch], None],
    change: Change | None,
    oracle: Oracle,
    request: pytest.FixtureRequest,
    monkeypatch: Patch,
) -> None:
    path: Path = request.getfixturevalue(model)
    # They are kept, so that transformers never runs on changed code.
    oracle.references(path, PROMPTS, MAX_TOKENS)
    mutate(monkeypatch)
    setting = Setting(num_parts=2, make_runner=runner_with(change))
    comparison = oracle.compare(path, PROMPTS, MAX_TOKENS, setting)
    assert comparison.max_abs_difference > MARGIN * BOUND
    assert not comparison.is_within_bounds


def share_all(model: Model) -> Plan:
    """All layers shared by two members."""
    return share_layers(model, [(0, len(model.layers), [1, 1])])


@pytest.mark.parametrize(
    ("model", "mutate", "change"),
    [
        pytest.param(*case, id=f"{case[0]}-{(case[2] or case[1]).__name__}")
        for case in MUTATIONS
        # Members have no two experts of one number: tests/part/torch/test_expert_members.py.
        if case[2] is not swap_two_experts
    ],
)
def test_so_it_does_when_members_share_what_is_broken(
    model: str,
    mutate: Callable[[Patch], None],
    change: Change | None,
    oracle: Oracle,
    request: pytest.FixtureRequest,
    monkeypatch: Patch,
) -> None:
    path: Path = request.getfixturevalue(model)
    oracle.references(path, PROMPTS, MAX_TOKENS)
    mutate(monkeypatch)
    # Members take the same steps, or one would wait for the other.
    make = runner_with(change, ("part0", "part1"))
    # As with two stages, each sequence has passes of its own.
    limits = Limits(max_in_flight=2, max_rows=1)
    setting = Setting(make_plan=share_all, make_runner=make, limits=limits)
    comparison = oracle.compare(path, PROMPTS, MAX_TOKENS, setting)
    assert comparison.max_abs_difference > MARGIN * BOUND
    assert not comparison.is_within_bounds


@pytest.mark.parametrize("make_plan", [None, share_all])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2", "tiny_mixtral"])
def test_the_same_comparison_passes_when_it_is_not(
    model: str,
    make_plan: Callable[[Model], Plan] | None,
    oracle: Oracle,
    request: pytest.FixtureRequest,
) -> None:
    path: Path = request.getfixturevalue(model)
    setting = Setting(num_parts=2, make_plan=make_plan, make_runner=runner_with(None))
    comparison = oracle.compare(path, PROMPTS, MAX_TOKENS, setting)
    assert comparison.is_within_bounds, comparison
