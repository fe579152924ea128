"""Small random models of the families that the onnx runner covers, and of mixtures of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import CONTEXT_TOKENS, INITIALIZER_RANGE, NORM_EPSILON, SPECIAL_IDS, VOCAB_SIZE, save

SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": INITIALIZER_RANGE,
    "rms_norm_eps": NORM_EPSILON,
    **SPECIAL_IDS,
}
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
}  # fmt: skip
YARN_ROPE = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"attention_bias": True, "mlp_bias": False}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama3 rope": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "yarn rope": ("Llama", {"rope_parameters": YARN_ROPE}),
    "mistral": ("Mistral", {"head_dim": 32, "sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "phi3": ("Phi3", {"sliding_window": None}),
}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            "head_dim": 32, "num_experts": 8, "num_experts_per_tok": 3,
            "moe_intermediate_size": 48, "norm_topk_prob": True, "mlp_only_layers": [1],
        },
    ),
}  # fmt: skip


def save_decoder(folder: Path, name: str, **changes: Any) -> Path:
    """A random model of 4 blocks of one of `DECODERS` or `MIXTURES`, saved as transformers does."""
    import transformers

    family, own = (DECODERS | MIXTURES)[name]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **own, **changes})
    network_class = getattr(transformers, f"{family}ForCausalLM")
    return save(network_class, config, folder, seed=[*sorted(DECODERS), *MIXTURES].index(name))
