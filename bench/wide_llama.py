"""A random llama whose hop is wide for what its layers compute: 2 blocks of width
4096 with 8 heads of 64, an MLP of 256 and a vocabulary of 512.

A token's hidden state takes 16 KiB in fp32; a part computes 8 to 10 M multiply-accumulates for
it. (SmolLM2: 2.3 KB and 67 M.) Its weights mean nothing: it is there to be timed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SEED = 20261126
NUM_LAYERS, HIDDEN, MLP, VOCABULARY = 2, 4096, 256, 512
NUM_HEADS, NUM_KV_HEADS, HEAD_SIZE = 8, 2, 64
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "head_dim": HEAD_SIZE,
    "max_position_embeddings": 4096,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
}


def make_wide_llama(folder: Path) -> Path:
    """Write the model, 100 MB, to the empty ``folder``."""
    generator = np.random.default_rng(SEED)
    tensors = {name: _draw(generator, shape) for name, shape in _list_shapes().items()}
    save_file(tensors, folder / "model.safetensors")
    # A deployment wants a tokenizer; nothing is encoded with this one.
    vocab = {f"t{i}": i for i in range(VOCABULARY)}
    words = {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": words}))
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    return folder


def _list_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    query, kv = NUM_HEADS * HEAD_SIZE, NUM_KV_HEADS * HEAD_SIZE
    for i in range(NUM_LAYERS):
        shapes |= {
            f"model.layers.{i}.self_attn.q_proj.weight": (query, HIDDEN),
            f"model.layers.{i}.self_attn.k_proj.weight": (kv, HIDDEN),
            f"model.layers.{i}.self_attn.v_proj.weight": (kv, HIDDEN),
            f"model.layers.{i}.self_attn.o_proj.weight": (HIDDEN, query),
            f"model.layers.{i}.mlp.gate_proj.weight": (MLP, HIDDEN),
            f"model.layers.{i}.mlp.up_proj.weight": (MLP, HIDDEN),
            f"model.layers.{i}.mlp.down_proj.weight": (HIDDEN, MLP),
            f"model.layers.{i}.input_layernorm.weight": (HIDDEN,),
            f"model.layers.{i}.post_attention_layernorm.weight": (HIDDEN,),
        }
    return shapes


def _draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return generator.standard_normal(shape, np.float32) * np.float32(0.02)
