"""Text on its way through a model, layer by layer, is text through transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from partwise.model import LayerKind, open_model
from partwise.part.torch.outputs import run_to_head
from partwise.part.torch.walk import TorchWalk
from partwise.store import Store

ROWS = np.random.default_rng(0).integers(0, 380, (3, 40)).tolist()


@pytest.fixture(params=["tiny_llama", "tiny_llama_tied", "tiny_gpt2"])
def model(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_llama_tied", "tiny_gpt2", "tiny_mixtral"])
def test_what_goes_into_the_head_gives_transformers_logits(
    name: str, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(name)
    outputs = run_to_head(model, 0, ROWS, lambda done, total: None)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        expected = network(torch.tensor(ROWS)).logits.numpy()
    for i in range(len(ROWS)):
        np.testing.assert_allclose(outputs.logits(i, 5, 40), expected[i, 5:], atol=2e-4)


def test_moments_are_those_of_the_inputs_that_transformers_modules_see(model: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    described = open_model(model)
    matrices = {p.name for layer in described.layers for p in layer.parameters
                if layer.kind is LayerKind.BLOCK and len(p.shape) == 2}  # fmt: skip
    seen: dict[str, torch.Tensor] = {}
    for path, child in network.named_modules():
        if (name := f"{path}.weight") in matrices or name == "lm_head.weight":
            child.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.__setitem__(name, inputs[0].flatten(0, 1))
            )
    with torch.inference_mode():
        network(torch.tensor(ROWS))
    found: dict[str, np.ndarray] = {}
    with Store.open(model) as store:
        walk = TorchWalk(described, store.config, ROWS)
        for index, layer in enumerate(described.layers):
            weights = {p.name: store.read(p.stored_name) for p in layer.parameters}
            if layer.kind in (LayerKind.BLOCK, LayerKind.HEAD):
                found |= walk.moments(index, weights)
            walk.advance(index, weights)
    assert found.keys() == seen.keys() == matrices | {"lm_head.weight"}
    for name, inputs_NI in seen.items():
        expected = (inputs_NI.T @ inputs_NI).double().numpy() / len(inputs_NI)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[name], expected, atol=2e-5 * scale, err_msg=name)
