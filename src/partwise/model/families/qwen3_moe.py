"""qwen3_moe: qwen3 with a mixture of experts in place of most MLPs.

Source: transformers, models/qwen3_moe/configuration_qwen3_moe.py and modeling_qwen3_moe.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.model.description import NeuronKind, Parameter
from partwise.model.families.family import Config
from partwise.model.families.llama import Llama, Sizes
from partwise.model.families.mixture import Mixture, read_chosen
from partwise.model.families.qwen3 import Qwen3
from partwise.model.families.stored import StoredTensors


@dataclass(frozen=True, slots=True)
class Qwen3Moe(Qwen3):
    """Qwen3MoeForCausalLM; where its later blocks use a window, up to that."""

    architecture: str = "Qwen3MoeForCausalLM"
    model_type: str = "qwen3_moe"
    default_head_dim: int = 0

    def second_half(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, index: int
    ) -> tuple[list[Parameter], NeuronKind]:
        """See `Llama.second_half`; a mixture in most blocks, as its config says."""
        if not _is_sparse(config, index):
            return Llama.second_half(self, tensors, config, sizes, index)
        # transformers 5 writes the second name.
        num_experts = config.size("num_experts", config.size("num_local_experts", 128))
        module = f"model.layers.{index}.mlp"
        mixture = Mixture(
            num_experts=num_experts,
            num_chosen=read_chosen(config, num_experts, 8),
            hidden=sizes.hidden,
            intermediate=config.size("moe_intermediate_size", 768),
            names=("gate_proj", "up_proj", "down_proj"),
            module=module,
            stored=module,
        )
        return mixture.describe(tensors), mixture.kind


def _is_sparse(config: Config, index: int) -> bool:
    """Whether block ``index`` has experts."""
    dense = config.values.get("mlp_only_layers") or ()
    is_dense = isinstance(dense, list) and index in dense
    return not is_dense and (index + 1) % config.size("decoder_sparse_step", 1) == 0
