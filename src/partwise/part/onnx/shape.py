"""The sizes of a decoder's blocks, from its description and config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partwise.model import Layer, LayerKind, Model

EPSILONS = {"Phi3ForCausalLM": 1e-5}
"""Of norms, where config.json leaves it out. Source: transformers' configurations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all blocks of a model have in common."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    norm_epsilon: float
    context_tokens: int

    @property
    def heads_per_group(self) -> int:
        """Query heads that share keys and values."""
        return self.num_heads // self.num_kv_heads

    @classmethod
    def read(cls, model: Model, config: Mapping[str, Any]) -> Shape:
        """The shape of ``model``, whose config.json says ``config``."""
        block = next(layer for layer in model.layers if layer.kind is LayerKind.BLOCK)
        num_kv_heads = count_kv_heads(block)
        return cls(
            hidden_size=model.hidden_size,
            num_heads=config.get("num_attention_heads", 32),
            num_kv_heads=num_kv_heads,
            head_size=block.kv_elements_per_token // (2 * num_kv_heads),
            norm_epsilon=config.get("rms_norm_eps", EPSILONS.get(model.architecture, 1e-6)),
            context_tokens=model.context_tokens,
        )


def count_kv_heads(block: Layer) -> int:
    """The KV heads of a block."""
    return next(kind.count for kind in block.neuron_kinds if kind.name == "kv_group")
