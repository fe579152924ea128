"""Experts as modules of their own, some of them elsewhere, against transformers' stacked ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from partwise.model import open_model
from partwise.part.torch.experts import Experts, separate_experts
from partwise.part.torch.linear import with_few_rows_linear
from partwise.part.torch.outputs import run_to_head
from partwise.part.torch.walk import TorchWalk
from partwise.store import Store
from support.decoders import MIXTURES, save_decoder

PROJECTIONS = ("w1", "w3", "w2")
ROWS = np.random.default_rng(0).integers(0, 380, (3, 40)).tolist()


def make_pair(num_experts: int, num_chosen: int, seed: int) -> tuple[Any, Experts]:
    """A mixture of transformers, and its experts one by one."""
    config = MixtralConfig(
        hidden_size=16, intermediate_size=12, num_local_experts=num_experts,
        num_experts_per_tok=num_chosen,
    )  # fmt: skip
    config._experts_implementation = "eager"
    torch.manual_seed(seed)
    mixture = MixtralSparseMoeBlock(config)
    for parameter in mixture.parameters():
        parameter.data.normal_(std=0.5)
    experts = separate_experts(mixture.experts, PROJECTIONS, ((0, num_experts),))
    with_few_rows_linear(experts)
    for number, expert in experts.items():
        gate_up = mixture.experts.gate_up_proj[int(number)]
        weights = (*gate_up.chunk(2), mixture.experts.down_proj[int(number)])
        names = (f"{name}.weight" for name in PROJECTIONS)
        expert.load_state_dict(dict(zip(names, weights, strict=True)))
    return mixture, experts


@settings(max_examples=60, deadline=None)
@given(
    num_experts=st.integers(1, 6),
    num_tokens=st.integers(1, 9),
    num_owners=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@torch.inference_mode()
def test_the_sums_of_any_owners_add_up_to_all_experts(
    num_experts: int, num_tokens: int, num_owners: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    mixture, experts = make_pair(num_experts, min(2, num_experts), seed)
    owner = generator.integers(0, num_owners, num_experts)
    hidden = torch.randn(num_tokens, 16)
    _, weights, chosen = mixture.gate(hidden)
    sums = [
        Experts({n: expert for n, expert in experts.items() if owner[int(n)] == i})(
            hidden, chosen, weights
        )
        for i in range(num_owners)
    ]
    expected = mixture(hidden[None])[0]
    torch.testing.assert_close(experts(hidden, chosen, weights), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sum(sums), expected, rtol=1e-5, atol=1e-5)


def test_experts_take_the_place_of_the_stacked_ones_without_memory() -> None:
    config = MixtralConfig(hidden_size=16, intermediate_size=12, num_local_experts=5)
    with torch.device("meta"):
        stacked = MixtralSparseMoeBlock(config).experts
        experts = separate_experts(stacked, PROJECTIONS, ((0, 1), (2, 4)))
    shapes = {name: tuple(weight.shape) for name, weight in experts.state_dict().items()}
    assert shapes == {
        f"{number}.{name}.weight": (16, 12) if name == "w2" else (12, 16)
        for number in (0, 2, 3)
        for name in PROJECTIONS
    }
    assert all(weight.is_meta for weight in experts.parameters())


@pytest.fixture(params=sorted(MIXTURES))
def mixture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_decoder(tmp_path, request.param)


def test_blocks_with_and_without_experts_give_transformers_logits(mixture: Path) -> None:
    outputs = run_to_head(mixture, 0, ROWS, lambda done, total: None)
    network = AutoModelForCausalLM.from_pretrained(mixture, dtype=torch.float32)
    with torch.inference_mode():
        expected = network(torch.tensor(ROWS)).logits.numpy()
    for i in range(len(ROWS)):
        np.testing.assert_allclose(outputs.logits(i, 5, 40), expected[i, 5:], atol=2e-4)


def test_each_matrix_of_an_expert_hears_the_tokens_that_chose_it(mixture: Path) -> None:
    model = open_model(mixture)
    layer = model.layers[1]
    with Store.open(mixture) as store:
        walk = TorchWalk(model, store.config, ROWS)
        for index in (0, 1):
            weights = {p.name: store.read(p.stored_name) for p in model.layers[index].parameters}
            if index == 1:
                moments = walk.moments(index, weights)
            else:
                walk.advance(index, weights)
    assert moments.keys() == {p.name for p in layer.parameters if len(p.shape) == 2}
    # Each token is heard by the router once, and by as many experts as it chose.
    assert layer.chosen_kind is not None
    gate = next(name for name in moments if name.endswith("mlp.gate.weight"))
    first = [p.name for p in layer.parameters if p.neurons and p.neurons[0].kind == "expert"][::3]
    heard = sum(np.trace(moments[name]) for name in first)
    assert heard == pytest.approx(layer.chosen_kind.num_chosen * np.trace(moments[gate]), rel=1e-4)


def test_of_an_expert_that_nobody_chose_all_inputs_are_alike(mixture: Path) -> None:
    model = open_model(mixture)
    layer = model.layers[1]
    with Store.open(mixture) as store:
        walk = TorchWalk(model, store.config, [[3]])
        weights = [
            {p.name: store.read(p.stored_name) for p in model.layers[index].parameters}
            for index in (0, 1)
        ]
        walk.advance(0, weights[0])
        moments = walk.moments(1, weights[1])
    assert layer.chosen_kind is not None
    num_experts, num_chosen = layer.chosen_kind.count, layer.chosen_kind.num_chosen or 0
    identities = [name for name, value in moments.items() if (value == np.eye(len(value))).all()]
    assert len(identities) == 3 * (num_experts - num_chosen)
    assert all(".experts." in name for name in identities)
