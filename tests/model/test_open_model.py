"""A directory from end to end: saved by transformers, or too large to save at all."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from partwise.errors import UnknownArchitecture
from partwise.model import open_model

HIDDEN, INTERMEDIATE, BLOCKS, VOCABULARY, SHARDS = 16384, 53248, 126, 128256, 191


def shapes_405b() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for i in range(BLOCKS):
        for name, shape in {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (1024, HIDDEN),
            "self_attn.v_proj": (1024, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
            "input_layernorm": (HIDDEN,),
            "post_attention_layernorm": (HIDDEN,),
        }.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    return shapes


def write_sparse(directory: Path, shapes: dict[str, tuple[int, ...]], num_shards: int) -> None:
    """Shards of the right size whose data is a hole in the file."""
    names = list(shapes)
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        header, end = {}, 0
        for name in names[shard::num_shards]:
            start, end = end, end + 2 * math.prod(shapes[name])
            row = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [start, end]}
            header[name] = row
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (directory / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + end)
    index = {"weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.quiet
def test_405_billion_parameters_are_described_in_a_second(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 131072,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_sparse(tmp_path, shapes_405b(), SHARDS)
    started = time.perf_counter()
    model = open_model(tmp_path)
    elapsed_s = time.perf_counter() - started
    assert elapsed_s < 1
    assert model.num_parameters == 405_853_388_800
    assert len(model.layers) == BLOCKS + 3
    assert model.describe_range(0, 11) == "embedding + blocks 0:10"
    assert model.describe_range(100, 129) == "blocks 99:126 + norm + head"


def test_a_model_saved_by_transformers_is_described(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=40, n_embd=24, n_layer=2, n_head=4, n_positions=64)
    module = GPT2LMHeadModel(config)
    module.save_pretrained(tmp_path / "tiny")
    model = open_model(str(tmp_path / "tiny"))
    assert (model.name, model.architecture) == ("tiny", "GPT2LMHeadModel")
    assert model.num_parameters == sum(p.numel() for p in module.parameters())
    module.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert open_model(tmp_path / "sharded").fingerprint == model.fingerprint


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2"])
def test_the_fingerprint_changes_with_what_a_runner_reads_of_the_config_alone(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Path = request.getfixturevalue(family)
    (tmp_path / "model.safetensors").symlink_to(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())

    def fingerprint(**changes: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        return open_model(tmp_path).fingerprint

    unchanged = fingerprint()
    others = {
        fingerprint(rope_theta=500_000.0),
        fingerprint(rope_scaling={"rope_type": "linear", "factor": 2.0}),
        fingerprint(rms_norm_eps=1e-3),
        fingerprint(activation_function="relu"),
    }
    assert len(others - {unchanged}) == 4
    assert unchanged == fingerprint(
        _name_or_path="elsewhere", transformers_version="0", torch_dtype="float16",
        dtype="bfloat16", use_cache=False,
    )  # fmt: skip
    names = [*config["architectures"], "OtherForCausalLM"]
    assert fingerprint(architectures=names) == fingerprint(architectures=names[::-1])
    config = dict(reversed(config.items()))
    assert fingerprint() == unchanged


def test_an_unknown_architecture_is_named_before_weights_are_looked_for(tmp_path: Path) -> None:
    config = {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownArchitecture, match="MambaForCausalLM"):
        open_model(tmp_path)
