"""gpt2: learned positions, one matrix for q, k and v, layer norms with biases.

Its Conv1D weights are stored [in, out], so neurons lie on axis 1 where llama has axis 0.
Source: transformers, models/gpt2/configuration_gpt2.py and modeling_gpt2.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

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

# The causal mask, which old checkpoints store in each block.
_IGNORED = re.compile(r"\.attn\.(masked_)?bias$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    hidden: int
    intermediate: int
    num_blocks: int
    num_heads: int
    head_dim: int
    vocabulary: int
    positions: int

    @classmethod
    def read(cls, config: Config) -> _Sizes:
        hidden = config.size("n_embd", 768)
        num_heads = config.size("n_head", 12)
        return cls(
            hidden=hidden,
            intermediate=config.size("n_inner", 4 * hidden),
            num_blocks=config.size("n_layer", 12),
            num_heads=num_heads,
            head_dim=config.divide("n_embd", "n_head", (hidden, num_heads)),
            vocabulary=config.size("vocab_size", 50257),
            positions=config.size("n_positions", 1024),
        )


@dataclass(frozen=True, slots=True)
class Gpt2:
    """GPT2LMHeadModel: [embedding, blocks, norm, head]; the hidden state crosses each cut.

    The embedding layer holds both tables: positions are added before the first block.
    """

    architecture: str = "GPT2LMHeadModel"
    model_type: str = "gpt2"

    def describe(
        self,
        config: Mapping[str, object],
        shapes_by_name: Mapping[str, TensorEntry] | NoFiles,
        name: str,
    ) -> Model:
        """See `Family.describe`.

        Raises:
            DamagedModel: a tensor is missing, unexpected or of another shape.
            ModelError: cross-attention, or quantised weights.
        """
        reader = Config(values=config)
        reader.refuse("quantization_config", "use a copy of the model that is not quantised")
        reader.refuse("add_cross_attention", "partwise runs decoders alone, use such a model")
        sizes = _Sizes.read(reader)
        tensors = StoredTensors(shapes_by_name, prefix="transformer.", ignored=_IGNORED)
        table, head = describe_ends(
            tensors,
            "transformer.wte.weight",
            (sizes.vocabulary, sizes.hidden),
            is_tied=reader.flag("tie_word_embeddings", True),
        )
        positions = tensors.take("transformer.wpe.weight", (sizes.positions, sizes.hidden))
        norm = _norm(tensors, sizes, "transformer.ln_f")
        blocks = [_block(tensors, sizes, i) for i in range(sizes.num_blocks)]
        tensors.refuse_leftovers(self.architecture)
        return Model(
            name=name,
            architecture=self.architecture,
            layers=(
                describe_embedding("transformer.wte", (table, positions)),
                *blocks,
                describe_norm("transformer.ln_f", norm),
                head,
            ),
            cut_tensors=(CutTensor(name="hidden", width=sizes.hidden),),
            context_tokens=sizes.positions,
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            config_digest=reader.digest(),
        )


def _block(tensors: StoredTensors, sizes: _Sizes, index: int) -> Layer:
    name = f"transformer.h.{index}"
    head = NeuronAxis(kind=KV_GROUP, axis=1, width=sizes.head_dim)
    unit = NeuronAxis(kind=MLP_UNIT, axis=1, width=1)
    hidden, inner = sizes.hidden, sizes.intermediate
    qkv = [replace(head, offset=i * hidden) for i in range(3)]
    parameters = (
        *_norm(tensors, sizes, f"{name}.ln_1"),
        *_output_split(tensors, f"{name}.attn.c_attn", (hidden, 3 * hidden), *qkv),
        *_input_split(tensors, f"{name}.attn.c_proj", (hidden, hidden), head),
        *_norm(tensors, sizes, f"{name}.ln_2"),
        *_output_split(tensors, f"{name}.mlp.c_fc", (hidden, inner), unit),
        *_input_split(tensors, f"{name}.mlp.c_proj", (inner, hidden), unit),
    )
    kinds = (
        NeuronKind(name=KV_GROUP, count=sizes.num_heads),
        NeuronKind(name=MLP_UNIT, count=inner),
    )
    return describe_block(name, parameters, kinds, 2 * hidden)


def _norm(tensors: StoredTensors, sizes: _Sizes, name: str) -> tuple[Parameter, ...]:
    shape = (sizes.hidden,)
    return tensors.take(f"{name}.weight", shape), tensors.take(f"{name}.bias", shape)


def _output_split(
    tensors: StoredTensors, name: str, shape: tuple[int, int], *axes: NeuronAxis
) -> tuple[Parameter, ...]:
    """A Conv1D whose outputs are neurons: its bias is split with them."""
    bias_axes = [replace(axis, axis=0) for axis in axes]
    return (
        tensors.take(f"{name}.weight", shape, *axes),
        tensors.take(f"{name}.bias", shape[1:], *bias_axes),
    )


def _input_split(
    tensors: StoredTensors, name: str, shape: tuple[int, int], axis: NeuronAxis
) -> tuple[Parameter, ...]:
    """A Conv1D whose inputs are neurons: its bias belongs to the whole sum."""
    return (
        tensors.take(f"{name}.weight", shape, replace(axis, axis=0)),
        tensors.take(f"{name}.bias", shape[1:]),
    )
