"""What transformers calls the layers of each family: modules without weights, for all neurons of a
layer or some, and how a pass runs through them.

How a family is described, and how it splits into neurons, is in `partwise.model.families`.
"""

from __future__ import annotations

import copy
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from partwise.errors import UnknownArchitecture
from partwise.model import Layer, LayerKind
from partwise.model.families.family import EXPERT, KV_GROUP, MLP_UNIT, VOCABULARY_ROW
from partwise.part.owned import Owned
from partwise.part.torch.attention import ATTENTION_NAME
from partwise.part.torch.experts import separate_experts
from partwise.part.torch.halves import Half
from partwise.part.torch.place import PLAIN, Place

WHOLE = Owned()


class TorchFamily(ABC):
    """Builds modules of one architecture. Build them on the meta device; what `__init__`
    makes (tables that are in no state dict) must be real.

    ``source`` names the module of transformers from which they come; ``halves`` are those of a
    block, ``table`` is the path of the token table in the module of the embedding. ``place`` is
    where their weights will be.
    """

    source: ClassVar[str]
    halves: ClassVar[tuple[Half, ...]]
    table: ClassVar[str] = ""
    config: Any
    place: Place = PLAIN

    def move(self, place: Place) -> None:
        """Let modules be built for ``place``, and what they are called with be there."""
        self.place = place

    def module(self, layer: Layer, block: int, owned: Owned = WHOLE) -> nn.Module:
        """The module of ``layer``; ``block`` counts the blocks of the model from 0.

        Its matrices have room for the neurons that are ``owned``, at least one of each kind. The
        embedding's have room for all.
        """
        match layer.kind:
            case LayerKind.EMBEDDING:
                return self.embedding()
            case LayerKind.BLOCK:
                return self.block(block, owned)
            case LayerKind.NORM:
                return self.norm()
            case LayerKind.HEAD:
                num_rows = owned.count(VOCABULARY_ROW, self.config.vocab_size)
                return nn.Linear(self.config.hidden_size, num_rows, bias=False)

    def prefix(self, layer: Layer) -> str:
        """What the names of the layer's parameters start with, before those of its module."""
        return layer.name + "."

    def state(self, layer: Layer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``tensors``, by the names of the parameters of ``layer``, as its module names them."""
        prefix = self.prefix(layer)
        return {p.name.removeprefix(prefix): tensors[p.name] for p in layer.parameters}

    @abstractmethod
    def embedding(self) -> nn.Module: ...

    @abstractmethod
    def block(self, index: int, owned: Owned = WHOLE) -> nn.Module: ...

    @abstractmethod
    def norm(self) -> nn.Module: ...

    @abstractmethod
    def embed(self, module: nn.Module, ids_N: Tensor, positions_1N: Tensor) -> Tensor:
        """Hidden states (1, N, width) of tokens at their positions."""

    def block_arguments(self, positions_1N: Tensor) -> dict[str, Any]:
        """What every block of a pass is called with, besides hidden states and rows."""
        return {}


class LlamaFamily(TorchFamily):
    """LlamaForCausalLM, and architectures whose modules differ from its in their names: all of
    ``source``, beginning with ``prefix_of_classes``."""

    source = "transformers.models.llama.modeling_llama"
    prefix_of_classes: ClassVar[str] = "Llama"
    halves: ClassVar[tuple[Half, ...]] = (
        Half(kind=KV_GROUP, path="self_attn", end="self_attn.o_proj", is_pair=True),
        Half(kind=MLP_UNIT, path="mlp", end="mlp.down_proj"),
    )

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = self._class("Config").from_dict(dict(config))
        self.config._attn_implementation = ATTENTION_NAME
        self._rotary = self._class("RotaryEmbedding")(self.config)
        self._like = torch.empty(0)

    def move(self, place: Place) -> None:
        """See `TorchFamily.move`."""
        super().move(place)
        # Its frequencies stay in fp32; what it returns is like this one.
        self._rotary.to(place.device)
        self._like = place.empty(0)

    def _class(self, name: str) -> Any:
        """What transformers calls ``name`` of this architecture."""
        return getattr(importlib.import_module(self.source), self.prefix_of_classes + name)

    def embedding(self) -> nn.Module:
        return nn.Embedding(self.config.vocab_size, self.config.hidden_size)

    def block(self, index: int, owned: Owned = WHOLE) -> nn.Module:
        module: nn.Module = self._class("DecoderLayer")(self._shrink(owned), index)
        return module

    def _shrink(self, owned: Owned) -> Any:
        """The config of a block with just the neurons that are ``owned``."""
        if not owned.by_kind:
            return self.config
        config = copy.copy(self.config)
        num_heads, num_groups = config.num_attention_heads, config.num_key_value_heads
        # Where a config does not give it, modules divide the hidden state by the number of heads.
        config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
        config.num_key_value_heads = owned.count(KV_GROUP, num_groups)
        config.num_attention_heads = config.num_key_value_heads * (num_heads // num_groups)
        config.intermediate_size = owned.count(MLP_UNIT, config.intermediate_size)
        return config

    def norm(self) -> nn.Module:
        module: nn.Module = self._class("RMSNorm")(
            self.config.hidden_size, eps=self.config.rms_norm_eps
        )
        return module

    def embed(self, module: nn.Module, ids_N: Tensor, positions_1N: Tensor) -> Tensor:
        hidden: Tensor = module(ids_N)
        return hidden.unsqueeze(0)

    def block_arguments(self, positions_1N: Tensor) -> dict[str, Any]:
        return {"position_embeddings": self._rotary(self._like, positions_1N)}


class MistralFamily(LlamaFamily):
    """MistralForCausalLM."""

    source = "transformers.models.mistral.modeling_mistral"
    prefix_of_classes = "Mistral"


class Qwen2Family(LlamaFamily):
    """Qwen2ForCausalLM."""

    source = "transformers.models.qwen2.modeling_qwen2"
    prefix_of_classes = "Qwen2"


class Qwen3Family(LlamaFamily):
    """Qwen3ForCausalLM."""

    source = "transformers.models.qwen3.modeling_qwen3"
    prefix_of_classes = "Qwen3"


class Phi3Family(LlamaFamily):
    """Phi3ForCausalLM."""

    source = "transformers.models.phi3.modeling_phi3"
    prefix_of_classes = "Phi3"


class MixtralFamily(LlamaFamily):
    """MixtralForCausalLM. ``projections`` are an expert's gate, up and down, as files call them."""

    source = "transformers.models.mixtral.modeling_mixtral"
    prefix_of_classes = "Mixtral"
    projections: ClassVar[tuple[str, str, str]] = ("w1", "w3", "w2")
    # Some blocks of mixtures have an MLP.
    halves = (*LlamaFamily.halves, Half(kind=EXPERT, path="mlp", end="mlp.experts"))

    def block(self, index: int, owned: Owned = WHOLE) -> nn.Module:
        module = super().block(index, owned)
        mlp: Any = module.mlp
        if hasattr(mlp, "experts"):
            every = ((0, mlp.experts.num_experts),)
            ranges = owned.by_kind.get(EXPERT, every)
            mlp.experts = separate_experts(mlp.experts, self.projections, ranges)
        return module

    def state(self, layer: Layer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `TorchFamily.state`; experts of which nothing is owned have no module."""
        state = super().state(layer, tensors)
        return {name: t for name, t in state.items() if t.numel() or ".experts." not in name}


class Qwen3MoeFamily(MixtralFamily):
    """Qwen3MoeForCausalLM."""

    source = "transformers.models.qwen3_moe.modeling_qwen3_moe"
    prefix_of_classes = "Qwen3Moe"
    projections = ("gate_proj", "up_proj", "down_proj")


class Gpt2Embedding(nn.Module):
    """Token and position tables: gpt2 adds positions before its first block."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids_N: Tensor, positions_1N: Tensor) -> Tensor:
        hidden: Tensor = self.wte(ids_N).unsqueeze(0) + self.wpe(positions_1N)
        return hidden


class Gpt2Family(TorchFamily):
    """GPT2LMHeadModel."""

    source = "transformers.models.gpt2.modeling_gpt2"
    halves = (
        Half(kind=KV_GROUP, path="attn", end="attn.c_proj", is_pair=True),
        Half(kind=MLP_UNIT, path="mlp", end="mlp.c_proj"),
    )
    table = "wte"

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import GPT2Config

        self.config = GPT2Config.from_dict(dict(config))
        self.config._attn_implementation = ATTENTION_NAME

    def prefix(self, layer: Layer) -> str:
        return "transformer." if layer.kind is LayerKind.EMBEDDING else super().prefix(layer)

    def embedding(self) -> nn.Module:
        return Gpt2Embedding(self.config)

    def block(self, index: int, owned: Owned = WHOLE) -> nn.Module:
        from transformers.models.gpt2.modeling_gpt2 import GPT2Block

        config = copy.copy(self.config)
        if owned.is_split(MLP_UNIT):
            config.n_inner = owned.count(MLP_UNIT, 0)
        module: nn.Module = GPT2Block(config, layer_idx=index)
        if owned.is_split(KV_GROUP):
            _shrink_attention(module.attn, owned.count(KV_GROUP, 0))
        return module

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_epsilon)

    def embed(self, module: nn.Module, ids_N: Tensor, positions_1N: Tensor) -> Tensor:
        hidden: Tensor = module(ids_N, positions_1N)
        return hidden


def _shrink_attention(attention: Any, num_heads: int) -> None:
    """Leave ``num_heads`` to gpt2's attention: its config has no size of a head by itself."""
    from transformers.pytorch_utils import Conv1D

    width = num_heads * attention.head_dim
    attention.num_heads, attention.split_size = num_heads, width
    attention.c_attn = Conv1D(3 * width, attention.embed_dim)
    attention.c_proj = Conv1D(attention.embed_dim, width)


FAMILIES: dict[str, type[LlamaFamily | Gpt2Family]] = {
    "LlamaForCausalLM": LlamaFamily,
    "MistralForCausalLM": MistralFamily,
    "MixtralForCausalLM": MixtralFamily,
    "Qwen2ForCausalLM": Qwen2Family,
    "Qwen3ForCausalLM": Qwen3Family,
    "Qwen3MoeForCausalLM": Qwen3MoeFamily,
    "Phi3ForCausalLM": Phi3Family,
    "GPT2LMHeadModel": Gpt2Family,
}


def torch_family(architecture: str, config: Mapping[str, Any]) -> TorchFamily:
    """The family of ``architecture``, made from the model's config.json.

    Raises:
        UnknownArchitecture: the torch runner has no adapter for it.
    """
    family = FAMILIES.get(architecture)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise UnknownArchitecture(
            f"the torch runner has no adapter for {architecture}; it knows {known}"
        )
    return family(config)
