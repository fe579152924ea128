"""A random llama made of equal blocks of a chosen size, cut into a part a block: a chain of parts
that hold about as many bytes each. Its weights mean nothing: it is there to be timed.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from partwise.distributor import Plan
from partwise.distributor.build import identify, join
from partwise.distributor.placement import place_parameters
from partwise.distributor.plan import Member, Part, Precision, Stage
from partwise.model import Model

HEAD_SIZE = 64
MLP_WIDTHS, VOCABULARY = 3, 64
"""The MLP is so many times as wide as the hidden state, the vocabulary as good as nothing."""
ELEMENTS = 4 + 3 * MLP_WIDTHS
"""Of a block, in squares of its width: q, k, v, o, and three matrices of the gated MLP."""
SEED = 20261125


def choose_width(block_bytes: int, element_bytes: float) -> int:
    """The width, in whole heads, whose block comes closest to ``block_bytes``."""
    width = math.sqrt(block_bytes / element_bytes / ELEMENTS)
    return HEAD_SIZE * max(1, round(width / HEAD_SIZE))


def save_chain(folder: Path, width: int, num_blocks: int) -> None:
    """Save the model, a shard a block, to an empty ``folder``."""
    ends = {"model.embed_tokens.weight": (VOCABULARY, width), "model.norm.weight": (width,)}
    _save(folder / "ends.safetensors", 0, ends)
    files = dict.fromkeys(ends, "ends.safetensors")
    for i in range(num_blocks):
        shapes = {f"model.layers.{i}.{name}": shape for name, shape in _block(width).items()}
        _save(folder / f"block-{i}.safetensors", i + 1, shapes)
        files |= dict.fromkeys(shapes, f"block-{i}.safetensors")
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": MLP_WIDTHS * width,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": width // HEAD_SIZE,
        "num_key_value_heads": width // HEAD_SIZE,
        "max_position_embeddings": 512,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))


def cut_chain(model: Model, precision: Precision) -> Plan:
    """Each block in a part of its own, ``part1`` and so on; the ends in the first and the last."""
    starts = [0, *range(1, model.num_blocks + 2), len(model.layers)]
    stages = tuple(
        Stage(start=start, stop=stop, members=(Member(part=f"part{i}"),))
        for i, (start, stop) in enumerate(pairwise(starts))
    )
    names = [member.part for stage in stages for member in stage.members]
    return Plan(
        strategy="a part a block",
        model=identify(model),
        stages=stages,
        parts=tuple(Part(name=n, server=f"server-{n}", precision=precision) for n in names),
        links=join(stages),
        placements=place_parameters(model, stages),
    )


def _block(width: int) -> dict[str, tuple[int, ...]]:
    square, up, down = (width, width), (MLP_WIDTHS * width, width), (width, MLP_WIDTHS * width)
    return {
        "self_attn.q_proj.weight": square,
        "self_attn.k_proj.weight": square,
        "self_attn.v_proj.weight": square,
        "self_attn.o_proj.weight": square,
        "mlp.gate_proj.weight": up,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": down,
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }


def _save(path: Path, number: int, shapes: dict[str, tuple[int, ...]]) -> None:
    generator = np.random.default_rng((SEED, number))
    tensors = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else generator.standard_normal(shape, np.float32) * np.float32(0.02)
        for name, shape in shapes.items()
    }
    save_file(tensors, path)
