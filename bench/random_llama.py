"""A random llama of the 1B class in ``models/``, made once from a seed: 16 layers of width 2048,
8 KV groups of 32 heads, a gated MLP of 8192, tied embeddings of 32,000 rows; 4.2 GB in fp32.

Its weights mean nothing: it is there to be timed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from harness import ROOT
from partwise.cli.format import format_bytes

FOLDER = ROOT / "models" / "random-llama-1b"
SEED = 20261125
NUM_LAYERS, HIDDEN, MLP, VOCABULARY = 16, 2048, 8192, 32_000
NUM_HEADS, NUM_KV_HEADS = 32, 8
SCALE = np.float32(0.02)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "max_position_embeddings": 4096,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
}

Shapes = dict[str, tuple[int, ...]]


def ensure_random_llama() -> Path:
    """The model's directory, made if it is not there.

    Raises:
        OSError: there is no room for it.
    """
    if not (FOLDER / "config.json").is_file():
        _make(FOLDER)
    return FOLDER


def list_shards() -> dict[str, Shapes]:
    """The shapes of the tensors in each file: the table, then a layer each."""
    shards = {
        f"layer-{i:02}.safetensors": {f"model.layers.{i}.{k}": v for k, v in _layer().items()}
        for i in range(NUM_LAYERS)
    }
    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    return {"ends.safetensors": ends, **shards}


def _layer() -> Shapes:
    kv_width = HIDDEN // NUM_HEADS * NUM_KV_HEADS
    return {
        "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "self_attn.k_proj.weight": (kv_width, HIDDEN),
        "self_attn.v_proj.weight": (kv_width, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "mlp.gate_proj.weight": (MLP, HIDDEN),
        "mlp.up_proj.weight": (MLP, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, MLP),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }


def _make(folder: Path) -> None:
    shards = list_shards()
    num_bytes = sum(4 * int(np.prod(s)) for shapes in shards.values() for s in shapes.values())
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < num_bytes + (1 << 30):
        raise OSError(
            f"{folder} needs {format_bytes(num_bytes)} and 1 GiB to spare,"
            f" {format_bytes(free_bytes)} are free: make room"
        )
    for number, (file, shapes) in enumerate(shards.items()):
        generator = np.random.default_rng((SEED, number))
        save_file({name: _draw(generator, shape) for name, shape in shapes.items()}, folder / file)
    weight_map = {name: file for file, shapes in shards.items() for name in shapes}
    index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    # A deployment wants a tokenizer; nothing is encoded with this one.
    vocab = {f"t{i}": i for i in range(VOCABULARY)}
    words = {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": words}))
    # Last: a directory with a config is complete.
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))


def _draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return generator.standard_normal(shape, np.float32) * SCALE
