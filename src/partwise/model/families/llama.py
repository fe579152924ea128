"""llama, and what others take from it: grouped-query attention, a gated MLP, RMS norms, rotary
positions.

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
ROTATED_MULTIPLE = 16
"""Of the elements of a head that operators rotate."""
ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
"""Rotary positions that turn a token by its own position alone, up to the model's context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of a decoder, as config.json gives them."""

    hidden: int
    intermediate: int
    num_blocks: int
    num_kv_heads: int
    heads_per_group: int
    head_dim: int
    vocabulary: int

    @classmethod
    def read(cls, config: Config, default_head_dim: int = 0) -> Sizes:
        """The sizes that config.json gives; ``default_head_dim`` 0: the heads share the hidden
        state evenly."""
        hidden = config.size("hidden_size", 4096)
        num_heads = config.size("num_attention_heads", 32)
        num_kv_heads = config.size("num_key_value_heads", num_heads)
        head_dim = config.size("head_dim", default_head_dim or max(1, hidden // num_heads))
        if not default_head_dim and not config.values.get("head_dim"):
            config.divide("hidden_size", "num_attention_heads", (hidden, num_heads))
        return cls(
            hidden=hidden,
            intermediate=config.size("intermediate_size", 11008),
            num_blocks=config.size("num_hidden_layers", 32),
            num_kv_heads=num_kv_heads,
            heads_per_group=config.divide(
                "num_attention_heads", "num_key_value_heads", (num_heads, num_kv_heads)
            ),
            head_dim=head_dim,
            vocabulary=config.size("vocab_size", 32000),
        )


@dataclass(frozen=True, slots=True)
class Llama:
    """LlamaForCausalLM: [embedding, blocks, norm, head]; the hidden state crosses each cut.

    Other architectures name themselves and say what their blocks have.
    """

    architecture: str = "LlamaForCausalLM"
    model_type: str = "llama"
    default_context_tokens: int = 2048
    default_head_dim: int = 0
    rope_types: tuple[str, ...] = ROPE_TYPES

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
        _check_rope(config, self.rope_types)
        sizes = Sizes.read(reader, self.default_head_dim)
        tensors = StoredTensors(shapes_by_name, prefix="model.", ignored=_IGNORED)
        table, head = describe_ends(
            tensors,
            "model.embed_tokens.weight",
            (sizes.vocabulary, sizes.hidden),
            is_tied=reader.flag("tie_word_embeddings", False),
        )
        norm = tensors.take("model.norm.weight", (sizes.hidden,))
        blocks = [self._block(tensors, reader, sizes, i) for i in range(sizes.num_blocks)]
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
            context_tokens=self._context_tokens(reader),
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            config_digest=reader.digest(),
            features=_find_features(config, sizes.head_dim),
        )

    def _block(self, tensors: StoredTensors, config: Config, sizes: Sizes, index: int) -> Layer:
        name = f"model.layers.{index}"
        norms = [
            tensors.take(f"{name}.{norm}.weight", (sizes.hidden,))
            for norm in ("input_layernorm", "post_attention_layernorm")
        ]
        attention = self.attention(tensors, config, sizes, f"{name}.self_attn")
        mlp, units = self.second_half(tensors, config, sizes, index)
        groups = NeuronKind(name=KV_GROUP, count=sizes.num_kv_heads)
        kv_elements = 2 * sizes.num_kv_heads * sizes.head_dim
        return describe_block(name, (*attention, *mlp, *norms), (groups, units), kv_elements)

    def attention(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """The parameters of attention."""
        has_bias = config.flag("attention_bias", False)
        return describe_attention(tensors, sizes, name, biases=(has_bias, has_bias))

    def second_half(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, index: int
    ) -> tuple[list[Parameter], NeuronKind]:
        """The parameters that follow attention in block ``index``, and the kind of their neurons:
        an MLP and its units."""
        parameters = self.mlp(tensors, config, sizes, f"model.layers.{index}.mlp")
        return parameters, NeuronKind(name=MLP_UNIT, count=sizes.intermediate)

    def mlp(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """The parameters of the MLP."""
        return describe_mlp(tensors, sizes, name, has_bias=config.flag("mlp_bias", False))

    def window_tokens(self, config: Config) -> int | None:
        """How far back a token sees, where that is less than everything."""
        return None

    def _context_tokens(self, config: Config) -> int:
        """Up to its window a model that sees no further is one that sees everything."""
        context_tokens = config.size("max_position_embeddings", self.default_context_tokens)
        return min(context_tokens, self.window_tokens(config) or context_tokens)


def _check_rope(config: Mapping[str, object], known: tuple[str, ...]) -> None:
    """longrope, among others, chooses its factors by the largest position of a call, and a call
    here holds rows of several sequences."""
    for key in ("rope_parameters", "rope_scaling"):  # transformers 5, and before
        rope = config.get(key)
        if not isinstance(rope, Mapping):
            continue
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind not in known:
            raise ModelError(
                f"config.json has rotary positions of type {kind!r} ({key}), known are"
                f" {', '.join(known)}: take a model with one of these"
            )


def _find_features(config: Mapping[str, object], head_dim: int) -> tuple[str, ...]:
    """What the config asks for that operators made for such decoders lack."""
    features = []
    activation = config.get("hidden_act") or "silu"
    if activation not in ("silu", "swish"):
        features.append(f"its activation is {activation}, not silu")
    rope = config.get("rope_parameters")
    nested = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
    factor = nested or config.get("partial_rotary_factor") or 1.0
    rotated = int(head_dim * factor) if isinstance(factor, int | float) else head_dim
    if rotated % ROTATED_MULTIPLE:
        features.append(
            f"it rotates {rotated} elements of a head, no multiple of {ROTATED_MULTIPLE}"
        )
    return tuple(features)


def describe_attention(
    tensors: StoredTensors, sizes: Sizes, name: str, *, biases: tuple[bool, bool]
) -> list[Parameter]:
    """Four projections; ``biases`` say whether the first three have one, and the last."""
    query_width = sizes.heads_per_group * sizes.head_dim
    parameters = []
    for projection, width in (("q", query_width), ("k", sizes.head_dim), ("v", sizes.head_dim)):
        parameters += output_split(
            tensors,
            f"{name}.{projection}_proj",
            (sizes.num_kv_heads * width, sizes.hidden),
            NeuronAxis(kind=KV_GROUP, axis=0, width=width),
            has_bias=biases[0],
        )
    return parameters + input_split(
        tensors,
        f"{name}.o_proj",
        (sizes.hidden, sizes.num_kv_heads * query_width),
        NeuronAxis(kind=KV_GROUP, axis=1, width=query_width),
        has_bias=biases[1],
    )


def describe_mlp(
    tensors: StoredTensors, sizes: Sizes, name: str, *, has_bias: bool
) -> list[Parameter]:
    """Three projections."""
    parameters = []
    for projection in ("gate_proj", "up_proj"):
        parameters += output_split(
            tensors,
            f"{name}.{projection}",
            (sizes.intermediate, sizes.hidden),
            NeuronAxis(kind=MLP_UNIT, axis=0, width=1),
            has_bias=has_bias,
        )
    return parameters + input_split(
        tensors,
        f"{name}.down_proj",
        (sizes.hidden, sizes.intermediate),
        NeuronAxis(kind=MLP_UNIT, axis=1, width=1),
        has_bias=has_bias,
    )


def output_split(
    tensors: StoredTensors, name: str, shape: tuple[int, int], axis: NeuronAxis, *, has_bias: bool
) -> list[Parameter]:
    """A linear layer whose outputs are neurons: its bias is split with them."""
    parameters = [tensors.take(f"{name}.weight", shape, axis)]
    if has_bias:
        parameters.append(tensors.take(f"{name}.bias", shape[:1], axis))
    return parameters


def input_split(
    tensors: StoredTensors, name: str, shape: tuple[int, int], axis: NeuronAxis, *, has_bias: bool
) -> list[Parameter]:
    """A linear layer whose inputs are neurons: its bias belongs to the whole sum."""
    parameters = [tensors.take(f"{name}.weight", shape, axis)]
    if has_bias:
        parameters.append(tensors.take(f"{name}.bias", shape[:1]))
    return parameters
