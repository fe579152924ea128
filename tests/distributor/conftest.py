"""Headers and configs of tiny models, written down apart from the package."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from partwise.model import Model, TensorEntry
from partwise.model.families import find_family

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Synthetic:
    """A model, and the elements of each tensor in its files."""

    model: Model
    stored_elements: dict[str, int]
    head: str | None
    """The stored name of the tied pair, if there is one."""


def llama_shapes(c: dict[str, Any], head_dim: int) -> Shapes:
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    shapes: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], hidden)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        linears = {
            "self_attn.q_proj": (q, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, q),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        for name, shape in linears.items():
            shapes[f"{at}.{name}.weight"] = shape
            if c["attention_bias"] if name.startswith("self") else c["mlp_bias"]:
                shapes[f"{at}.{name}.bias"] = shape[:1]
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
    return shapes | {"model.norm.weight": (hidden,)}


def put_experts(shapes: Shapes, c: dict[str, Any], block: int) -> None:
    """In place of the MLP of a block its experts, one by one, as files of both mixtures do."""
    hidden, inner, at = c["hidden_size"], c["intermediate_size"], f"model.layers.{block}"
    is_mixtral = c["model_type"] == "mixtral"
    inner = inner if is_mixtral else c["moe_intermediate_size"]
    names = ("w1", "w3", "w2") if is_mixtral else ("gate_proj", "up_proj", "down_proj")
    count = c["num_local_experts" if is_mixtral else "num_experts"]
    for name in ("gate_proj", "up_proj", "down_proj"):
        del shapes[f"{at}.mlp.{name}.weight"]
    at += ".block_sparse_moe" if is_mixtral else ".mlp"
    shapes[f"{at}.gate.weight"] = (count, hidden)
    for expert in range(count):
        for name, shape in zip(names, [(inner, hidden)] * 2 + [(hidden, inner)], strict=True):
            shapes[f"{at}.experts.{expert}.{name}.weight"] = shape


def gpt2_shapes(c: dict[str, Any]) -> Shapes:
    hidden, inner = c["n_embd"], c["n_inner"] or 4 * c["n_embd"]
    shapes: Shapes = {
        "transformer.wte.weight": (c["vocab_size"], hidden),
        "transformer.wpe.weight": (c["n_positions"], hidden),
    }
    for i in range(c["n_layer"]):
        at = f"transformer.h.{i}"
        linears = {
            "attn.c_attn": (hidden, 3 * hidden),
            "attn.c_proj": (hidden, hidden),
            "mlp.c_fc": (hidden, inner),
            "mlp.c_proj": (inner, hidden),
        }
        for name, shape in linears.items():
            shapes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[1:]}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{at}.{name}.weight": (hidden,), f"{at}.{name}.bias": (hidden,)}
    return shapes | {"transformer.ln_f.weight": (hidden,), "transformer.ln_f.bias": (hidden,)}


def random_llama(rng: random.Random) -> tuple[dict[str, Any], Shapes, str]:
    kv_heads, group, head_dim = rng.randint(1, 4), rng.randint(1, 3), rng.choice([2, 4, 6])
    is_explicit = rng.random() < 0.3
    config: dict[str, Any] = {
        "model_type": "llama",
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * group,
        "hidden_size": kv_heads * group * (head_dim + 2 * is_explicit),
        "intermediate_size": rng.randint(1, 60),
        "num_hidden_layers": rng.randint(1, 12),
        "vocab_size": rng.randint(1, 400),
        "attention_bias": rng.random() < 0.3,
        "mlp_bias": rng.random() < 0.3,
        "tie_word_embeddings": rng.random() < 0.5,
    }
    if is_explicit:
        config["head_dim"] = head_dim
    return config, llama_shapes(config, head_dim), "model.embed_tokens.weight"


def random_mixture(rng: random.Random) -> tuple[dict[str, Any], Shapes, str]:
    """A mixtral, or a qwen3 some of whose blocks have experts."""
    config, _, table = random_llama(rng)
    num_experts = rng.randint(1, 6)
    config |= {"attention_bias": False, "mlp_bias": False, "head_dim": rng.choice([2, 4])}
    config["num_experts_per_tok"] = rng.randint(1, num_experts)
    blocks = range(config["num_hidden_layers"])
    if rng.random() < 0.5:
        config |= {"model_type": "mixtral", "num_local_experts": num_experts}
    else:
        config |= {"model_type": "qwen3_moe", "num_experts": num_experts}
        config["moe_intermediate_size"] = rng.randint(1, 20)
        config["mlp_only_layers"] = [block for block in blocks if rng.random() < 0.2]
    shapes = llama_shapes(config, config["head_dim"])
    for block in blocks:
        if block not in config.get("mlp_only_layers", []):
            put_experts(shapes, config, block)
        if config["model_type"] == "qwen3_moe":
            for norm in ("q_norm", "k_norm"):
                shapes[f"model.layers.{block}.self_attn.{norm}.weight"] = (config["head_dim"],)
    return config, shapes, table


def random_gpt2(rng: random.Random) -> tuple[dict[str, Any], Shapes, str]:
    heads = rng.randint(1, 5)
    config: dict[str, Any] = {
        "model_type": "gpt2",
        "n_head": heads,
        "n_embd": heads * rng.choice([2, 4, 6]),
        "n_inner": rng.choice([None, rng.randint(1, 60)]),
        "n_layer": rng.randint(1, 12),
        "vocab_size": rng.randint(1, 400),
        "n_positions": rng.randint(1, 50),
        "tie_word_embeddings": rng.random() < 0.7,
    }
    return config, gpt2_shapes(config), "transformer.wte.weight"


def entries_of(shapes: Shapes) -> dict[str, TensorEntry]:
    return {
        name: TensorEntry(
            name=name,
            dtype="F32",
            shape=shape,
            file=Path("x"),
            offset=0,
            num_bytes=4 * math.prod(shape),
        )
        for name, shape in shapes.items()
    }


def synthesise(rng: random.Random) -> Synthetic:
    config, shapes, table = rng.choice([random_llama, random_gpt2, random_mixture])(rng)
    is_tied = config["tie_word_embeddings"]
    if not is_tied:
        shapes["lm_head.weight"] = shapes[table]
    if config["model_type"] == "gpt2" and rng.random() < 0.5:
        shapes = {name.removeprefix("transformer."): shape for name, shape in shapes.items()}
        table = table.removeprefix("transformer.")
    return Synthetic(
        model=find_family(config).describe(config, entries_of(shapes), "tiny"),
        stored_elements={name: math.prod(shape) for name, shape in shapes.items()},
        head=table if is_tied else None,
    )


@pytest.fixture(scope="session")
def make_synthetic() -> Callable[[random.Random], Synthetic]:
    return synthesise


@pytest.fixture(scope="session")
def model() -> Model:
    """A tied llama: an embedding, 4 blocks with 4 KV groups and 12 MLP units, norm and head."""
    config = {
        "model_type": "llama",
        "num_key_value_heads": 4,
        "num_attention_heads": 8,
        "hidden_size": 16,
        "intermediate_size": 12,
        "num_hidden_layers": 4,
        "vocab_size": 30,
        "attention_bias": True,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    }
    return find_family(config).describe(config, entries_of(llama_shapes(config, 2)), "tiny")


@pytest.fixture(scope="session")
def mixture() -> Model:
    """A mixtral of 2 blocks with 2 KV groups and 4 experts, of which 2 compute a token."""
    config = {
        "model_type": "mixtral",
        "num_key_value_heads": 2,
        "num_attention_heads": 4,
        "hidden_size": 16,
        "intermediate_size": 6,
        "num_hidden_layers": 2,
        "vocab_size": 30,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    shapes = llama_shapes(config, 4)
    for block in range(2):
        put_experts(shapes, config, block)
    shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    return find_family(config).describe(config, entries_of(shapes), "mixture")


@pytest.fixture(scope="session")
def wide_model() -> Model:
    """A llama with 64 of everything that can be shared out: blocks, groups, units, rows."""
    config = {
        "model_type": "llama",
        "num_key_value_heads": 64,
        "num_attention_heads": 64,
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 64,
        "vocab_size": 64,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }
    shapes = llama_shapes(config, 2)
    shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    return find_family(config).describe(config, entries_of(shapes), "wide")


@pytest.fixture(scope="session")
def heavy_ends_model() -> Model:
    """A tied llama in the shape of SmolLM2-135M: its table is as large as eight blocks."""
    config = {
        "model_type": "llama",
        "num_key_value_heads": 3,
        "num_attention_heads": 9,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "vocab_size": 49152,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    }
    return find_family(config).describe(config, entries_of(llama_shapes(config, 64)), "heavy")
