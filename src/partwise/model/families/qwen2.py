"""qwen2: llama with biases of q, k and v.

Source: transformers, models/qwen2/configuration_qwen2.py and modeling_qwen2.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.model.description import Parameter
from partwise.model.families.family import Config
from partwise.model.families.llama import Llama, Sizes, describe_attention, describe_mlp
from partwise.model.families.stored import StoredTensors

_DEFAULT_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Qwen2(Llama):
    """Qwen2ForCausalLM; where its later blocks use a window, up to that."""

    architecture: str = "Qwen2ForCausalLM"
    model_type: str = "qwen2"
    default_context_tokens: int = 32768

    def attention(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """See `Llama.attention`."""
        return describe_attention(tensors, sizes, name, biases=(True, False))

    def mlp(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """See `Llama.mlp`."""
        return describe_mlp(tensors, sizes, name, has_bias=False)

    def window_tokens(self, config: Config) -> int | None:
        """See `Llama.window_tokens`."""
        if not config.flag("use_sliding_window", False):
            return None
        return config.size("sliding_window", _DEFAULT_WINDOW)
