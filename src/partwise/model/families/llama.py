"""llama: grouped-query attention, a gated MLP, RMS norms, rotary positions.

Source: transformers, models/llama/configuration_llama.py and modeling_llama.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from partwise.errors import ModelError
from partwise.model.description import CutTensor, Layer, Model, NeuronAxis, NeuronKind, Parameter
from partwise.model.families.ends import (
    describe_block,
    describe_embedding,
    describe_ends,
    describe_norm,
)
from partwise.model.families.family import KV_GROUP, MLP_UNIT, Config
from partwise.model.families.stored import NoFiles, StoredTensors
from partwise.model.safetensors_file import TensorEntry

# Old checkpoints store it once a layer; the module computes it.
_IGNORED = re.compile(r"rotary_emb\.inv_freq$")
_ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Rotary positions that turn a token by its own position alone, up to the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    hidden: int
    intermediate: int
    num_blocks: int
    num_kv_heads: int
    heads_per_group: int
    head_dim: int
    vocabulary: int
    has_attention_bias: bool
    has_mlp_bias: bool

    @classmethod
    def read(cls, config: Config) -> _Sizes:
        hidden = config.size("hidden_size", 4096)
        num_heads = config.size("num_attention_heads", 32)
        num_kv_heads = config.size("num_key_value_heads", num_heads)
        default_head_dim = config.divide("hidden_size", "num_attention_heads", (hidden, num_heads))
        return cls(
            hidden=hidden,
            intermediate=config.size("intermediate_size", 11008),
            num_blocks=config.size("num_hidden_layers", 32),
            num_kv_heads=num_kv_heads,
            heads_per_group=config.divide(
                "num_attention_heads", "num_key_value_heads", (num_heads, num_kv_heads)
            ),
            head_dim=config.size("head_dim", default_head_dim),
            vocabulary=config.size("vocab_size", 32000),
            has_attention_bias=config.flag("attention_bias", False),
            has_mlp_bias=config.flag("mlp_bias", False),
        )


@dataclass(frozen=True, slots=True)
class Llama:
    """LlamaForCausalLM: [embedding, blocks, norm, head]; the hidden state crosses each cut."""

    architecture: str = "LlamaForCausalLM"
    model_type: str = "llama"

    def describe(
        self,
        config: Mapping[str, object],
        shapes_by_name: Mapping[str, TensorEntry] | NoFiles,
        name: str,
    ) -> Model:
        """See `Family.describe`.

        Raises:
            DamagedModel: a tensor is missing, unexpected or of another shape.
            ModelError: the weights are quantised, or the rotary positions are of another kind.
        """
        reader = Config(values=config)
        reader.refuse("quantization_config", "use a copy of the model that is not quantised")
        _check_rope(config)
        sizes = _Sizes.read(reader)
        tensors = StoredTensors(shapes_by_name, prefix="model.", ignored=_IGNORED)
        table, head = describe_ends(
            tensors,
            "model.embed_tokens.weight",
            (sizes.vocabulary, sizes.hidden),
            is_tied=reader.flag("tie_word_embeddings", False),
        )
        norm = tensors.take("model.norm.weight", (sizes.hidden,))
        blocks = [_block(tensors, sizes, i) for i in range(sizes.num_blocks)]
        tensors.refuse_leftovers(self.architecture)
        return Model(
            name=name,
            architecture=self.architecture,
            layers=(
                describe_embedding("model.embed_tokens", (table,)),
                *blocks,
                describe_norm("model.norm", (norm,)),
                head,
            ),
            cut_tensors=(CutTensor(name="hidden", width=sizes.hidden),),
            context_tokens=reader.size("max_position_embeddings", 2048),
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            config_digest=reader.digest(),
        )


def _check_rope(config: Mapping[str, object]) -> None:
    """longrope, among others, chooses its factors by the largest position of a call, and a call
    here holds rows of several sequences."""
    for key in ("rope_parameters", "rope_scaling"):  # transformers 5, and before
        rope = config.get(key)
        if not isinstance(rope, Mapping):
            continue
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind not in _ROPE_TYPES:
            raise ModelError(
                f"config.json has rotary positions of type {kind!r} ({key}), known are"
                f" {', '.join(_ROPE_TYPES)}: take a model with one of these"
            )


def _block(tensors: StoredTensors, sizes: _Sizes, index: int) -> Layer:
    name = f"model.layers.{index}"
    norms = [
        tensors.take(f"{name}.{norm}.weight", (sizes.hidden,))
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    parameters = (
        *_attention(tensors, sizes, f"{name}.self_attn"),
        *_mlp(tensors, sizes, f"{name}.mlp"),
        *norms,
    )
    kinds = (
        NeuronKind(name=KV_GROUP, count=sizes.num_kv_heads),
        NeuronKind(name=MLP_UNIT, count=sizes.intermediate),
    )
    return describe_block(name, parameters, kinds, 2 * sizes.num_kv_heads * sizes.head_dim)


def _attention(tensors: StoredTensors, sizes: _Sizes, name: str) -> list[Parameter]:
    query_width = sizes.heads_per_group * sizes.head_dim
    parameters = []
    for projection, width in (("q", query_width), ("k", sizes.head_dim), ("v", sizes.head_dim)):
        parameters += _output_split(
            tensors,
            f"{name}.{projection}_proj",
            (sizes.num_kv_heads * width, sizes.hidden),
            NeuronAxis(kind=KV_GROUP, axis=0, width=width),
            has_bias=sizes.has_attention_bias,
        )
    return parameters + _input_split(
        tensors,
        f"{name}.o_proj",
        (sizes.hidden, sizes.num_kv_heads * query_width),
        NeuronAxis(kind=KV_GROUP, axis=1, width=query_width),
        has_bias=sizes.has_attention_bias,
    )


def _mlp(tensors: StoredTensors, sizes: _Sizes, name: str) -> list[Parameter]:
    parameters = []
    for projection in ("gate_proj", "up_proj"):
        parameters += _output_split(
            tensors,
            f"{name}.{projection}",
            (sizes.intermediate, sizes.hidden),
            NeuronAxis(kind=MLP_UNIT, axis=0, width=1),
            has_bias=sizes.has_mlp_bias,
        )
    return parameters + _input_split(
        tensors,
        f"{name}.down_proj",
        (sizes.hidden, sizes.intermediate),
        NeuronAxis(kind=MLP_UNIT, axis=1, width=1),
        has_bias=sizes.has_mlp_bias,
    )


def _output_split(
    tensors: StoredTensors, name: str, shape: tuple[int, int], axis: NeuronAxis, *, has_bias: bool
) -> list[Parameter]:
    """A linear layer whose outputs are neurons: its bias is split with them."""
    parameters = [tensors.take(f"{name}.weight", shape, axis)]
    if has_bias:
        parameters.append(tensors.take(f"{name}.bias", shape[:1], axis))
    return parameters


def _input_split(
    tensors: StoredTensors, name: str, shape: tuple[int, int], axis: NeuronAxis, *, has_bias: bool
) -> list[Parameter]:
    """A linear layer whose inputs are neurons: its bias belongs to the whole sum."""
    parameters = [tensors.take(f"{name}.weight", shape, axis)]
    if has_bias:
        parameters.append(tensors.take(f"{name}.bias", shape[:1]))
    return parameters
