"""int8 and int4: the arithmetic is that of the rounded weights, whatever rounding costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracle_cases import generate, load_network
from partwise.compress.blocks import dequantize, fit_grid, round_to
from partwise.compress.scales import search_grid
from partwise.launch.listening import make_onnx_runner
from partwise.part.onnx.rounding import BLOCK
from support.decoders import save_decoder
from support.oracle import random_prompts
from support.parts import Parts, Setting

(PROMPT,) = random_prompts(60, seed=8)
ROUNDED_INPUTS = 0.08
"""How much of the logits' spread rounding the inputs of products to int8 may cost: measured 0.01
to 0.05 on models of 4 random blocks."""


def round_weights(network: Any, bits: int) -> None:
    """Give a network of transformers the weights that the runner computes with."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Linear):
                weight = module.weight.detach().numpy()
                find_grid, is_symmetric = (search_grid, False) if bits == 8 else (fit_grid, True)
                grid = find_grid(weight, bits=bits, block=BLOCK, is_symmetric=is_symmetric)
                rounded = round_to(weight, grid)
                # A tied head has its own copy: the embedding stays as it is.
                module.weight = torch.nn.Parameter(torch.from_numpy(dequantize(rounded)))


@pytest.mark.parametrize("name", ["llama", "llama tied", "qwen3", "phi3"])
@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("parts", [1, 3])
def test_logits_are_those_of_the_rounded_weights(
    name: str, precision: str, bits: int, parts: int, tmp_path: Path
) -> None:
    path = save_decoder(tmp_path, name)
    network = load_network(path)
    exact = generate(network, PROMPT, 1).logits[0]
    round_weights(network, bits)
    expected = generate(network, PROMPT, 1).logits[0]
    setting = Setting(num_parts=parts, make_runner=make_onnx_runner, precision=precision)
    with Parts(path, setting) as deployed:
        (token,) = deployed.submit(PROMPT, 1, wants_logits=True)
    difference = np.abs(token.logits - expected).mean() / np.abs(exact).mean()
    assert difference < ROUNDED_INPUTS
    if bits == 4:  # what the rounded weights cost is more, so that they would be missed
        assert np.abs(exact - expected).mean() / np.abs(exact).mean() > 3 * difference


def test_a_batch_is_computed_as_its_rows_are(tmp_path: Path) -> None:
    path = save_decoder(tmp_path, "llama")
    prompts = random_prompts(30, 4, 17, 60, seed=2)
    setting = Setting(num_parts=2, make_runner=make_onnx_runner, precision="int4")
    with Parts(path, setting) as parts:
        alone = [list(parts.submit(prompt, 5, wants_logits=True)) for prompt in prompts]
        together = parts.generate(prompts, 5)
    for one, other in zip(alone, together, strict=True):
        assert one[0].logits == pytest.approx(other[0].logits, abs=0.2)
