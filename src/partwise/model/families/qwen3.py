"""qwen3: llama whose query and key heads are normed.

Source: transformers, models/qwen3/configuration_qwen3.py and modeling_qwen3.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.model.description import Parameter
from partwise.model.families.family import Config
from partwise.model.families.llama import Sizes, describe_attention
from partwise.model.families.qwen2 import Qwen2
from partwise.model.families.stored import StoredTensors


@dataclass(frozen=True, slots=True)
class Qwen3(Qwen2):
    """Qwen3ForCausalLM; where its later blocks use a window, up to that."""

    architecture: str = "Qwen3ForCausalLM"
    model_type: str = "qwen3"
    default_head_dim: int = 128

    def attention(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """See `Llama.attention`; a norm is of one head's elements, the same for all heads."""
        has_bias = config.flag("attention_bias", False)
        norms = [
            tensors.take(f"{name}.{norm}.weight", (sizes.head_dim,))
            for norm in ("q_norm", "k_norm")
        ]
        return [*describe_attention(tensors, sizes, name, biases=(has_bias, has_bias)), *norms]
