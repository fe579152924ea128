"""mistral: llama without biases, and with a window beyond which a token does not see.

Source: transformers, models/mistral/configuration_mistral.py and modeling_mistral.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.model.description import Parameter
from partwise.model.families.family import Config
from partwise.model.families.llama import Llama, Sizes, describe_attention, describe_mlp
from partwise.model.families.stored import StoredTensors

_DEFAULT_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class Mistral(Llama):
    """MistralForCausalLM, up to its window."""

    architecture: str = "MistralForCausalLM"
    model_type: str = "mistral"
    default_context_tokens: int = 131072

    def attention(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """See `Llama.attention`."""
        return describe_attention(tensors, sizes, name, biases=(False, False))

    def mlp(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """See `Llama.mlp`."""
        return describe_mlp(tensors, sizes, name, has_bias=False)

    def window_tokens(self, config: Config) -> int | None:
        """See `Llama.window_tokens`; null is no window, where nothing is the default one."""
        if config.values.get("sliding_window", _DEFAULT_WINDOW) is None:
            return None
        return config.size("sliding_window", _DEFAULT_WINDOW)
