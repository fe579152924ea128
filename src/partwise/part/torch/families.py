"""What transformers calls the layers of each family: modules without weights, and how a
pass runs through them.

How a family is described, and how it splits into neurons, is in `partwise.model.families`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from partwise.errors import UnknownArchitecture
from partwise.model import Layer, LayerKind
from partwise.part.torch.attention import ATTENTION_NAME
from partwise.part.torch.experts import separate_experts


class TorchFamily(ABC):
    """Builds modules of one architecture. Build them on the meta device; what `__init__`
    makes (tables that are in no state dict) must be real.

    ``source`` names the module of transformers from which they come.
    """

    source: ClassVar[str]
    config: Any

    def module(self, layer: Layer, block: int) -> nn.Module:
        """The module of ``layer``; ``block`` counts the blocks of the model from 0."""
        match layer.kind:
            case LayerKind.EMBEDDING:
                return self.embedding()
            case LayerKind.BLOCK:
                return self.block(block)
            case LayerKind.NORM:
                return self.norm()
            case LayerKind.HEAD:
                return nn.Linear(self.config.hidden_size, self.config.vocab_size, bias=False)

    def prefix(self, layer: Layer) -> str:
        """What the names of the layer's parameters start with, before those of its module."""
        return layer.name + "."

    @abstractmethod
    def embedding(self) -> nn.Module: ...

    @abstractmethod
    def block(self, index: int) -> nn.Module: ...

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

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = self._class("Config").from_dict(dict(config))
        self.config._attn_implementation = ATTENTION_NAME
        self._rotary = self._class("RotaryEmbedding")(self.config)
        self._like = torch.empty(0)

    def _class(self, name: str) -> Any:
        """What transformers calls ``name`` of this architecture."""
        return getattr(importlib.import_module(self.source), self.prefix_of_classes + name)

    def embedding(self) -> nn.Module:
        return nn.Embedding(self.config.vocab_size, self.config.hidden_size)

    def block(self, index: int) -> nn.Module:
        module: nn.Module = self._class("DecoderLayer")(self.config, index)
        return module

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

    def block(self, index: int) -> nn.Module:
        module: Any = super().block(index)
        if hasattr(module.mlp, "experts"):  # some blocks of mixtures have an MLP
            module.mlp.experts = separate_experts(module.mlp.experts, self.projections)
        return module  # type: ignore[no-any-return]


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

    def __init__(self, config: Mapping[str, Any]) -> None:
        from transformers import GPT2Config

        self.config = GPT2Config.from_dict(dict(config))
        self.config._attn_implementation = ATTENTION_NAME

    def prefix(self, layer: Layer) -> str:
        return "transformer." if layer.kind is LayerKind.EMBEDDING else super().prefix(layer)

    def embedding(self) -> nn.Module:
        return Gpt2Embedding(self.config)

    def block(self, index: int) -> nn.Module:
        from transformers.models.gpt2.modeling_gpt2 import GPT2Block

        module: nn.Module = GPT2Block(self.config, layer_idx=index)
        return module

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_epsilon)

    def embed(self, module: nn.Module, ids_N: Tensor, positions_1N: Tensor) -> Tensor:
        hidden: Tensor = module(ids_N, positions_1N)
        return hidden


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
