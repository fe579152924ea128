from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from partwise.part.onnx.rotary import rotary_tables
from support.decoders import LLAMA3_ROPE, YARN_ROPE

CONTEXT = 2048
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize(
    "rope",
    [
        *({"rope_type": "default", "rope_theta": theta} for theta in (1e4, 1e5, 5e5, 1e6)),
        LINEAR_ROPE,
        {**LLAMA3_ROPE, "rope_theta": 500000.0},
        {**YARN_ROPE, "rope_theta": 1000000.0},
    ],
    ids=lambda rope: f"{rope['rope_type']}-{rope['rope_theta']:g}",
)
def test_far_positions_turn_as_far_as_in_transformers(rope: dict[str, Any], head_size: int) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=4 * head_size, num_attention_heads=4, max_position_embeddings=CONTEXT,
        rope_parameters=rope,
    )  # fmt: skip
    module = LlamaRotaryEmbedding(config)
    cosines, sines = module(torch.empty(0), torch.arange(CONTEXT)[None])
    ours = rotary_tables({"rope_parameters": rope}, head_size, CONTEXT)
    # One unit in the last place of an angle near 2,048 is 1.2e-4: these differ by none, or by one
    # in few frequencies.
    for table, found in zip(ours, (cosines, sines), strict=True):
        difference = np.abs(table - found[0, :, : head_size // 2].numpy())
        assert np.median(difference.max(axis=0)) < 2e-7
        assert (difference.max(axis=0) > 2e-7).sum() <= 2
