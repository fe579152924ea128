"""mixtral: mistral with a mixture of experts in place of each MLP.

Files say `block_sparse_moe` where transformers' module says `mlp`, and w1, w3, w2 to the gate, up
and down projections.
Source: transformers, models/mixtral/configuration_mixtral.py and modeling_mixtral.py, and
conversion_mapping.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.model.description import NeuronKind, Parameter
from partwise.model.families.family import Config
from partwise.model.families.llama import Sizes
from partwise.model.families.mistral import Mistral
from partwise.model.families.mixture import Mixture, read_chosen
from partwise.model.families.stored import StoredTensors


@dataclass(frozen=True, slots=True)
class Mixtral(Mistral):
    """MixtralForCausalLM, up to its window if it has one."""

    architecture: str = "MixtralForCausalLM"
    model_type: str = "mixtral"

    def second_half(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, index: int
    ) -> tuple[list[Parameter], NeuronKind]:
        """See `Llama.second_half`; a mixture and its experts."""
        num_experts = config.size("num_local_experts", 8)
        mixture = Mixture(
            num_experts=num_experts,
            num_chosen=read_chosen(config, num_experts, 2),
            hidden=sizes.hidden,
            intermediate=sizes.intermediate,
            names=("w1", "w3", "w2"),
            module=f"model.layers.{index}.mlp",
            stored=f"model.layers.{index}.block_sparse_moe",
        )
        return mixture.describe(tensors), mixture.kind

    def window_tokens(self, config: Config) -> int | None:
        """See `Llama.window_tokens`."""
        if config.values.get("sliding_window") is None:
            return None
        return config.size("sliding_window", 1)
