"""phi3: llama with one matrix for q, k and v, and one for gate and up.

Source: transformers, models/phi3/configuration_phi3.py and modeling_phi3.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.model.description import NeuronAxis, Parameter
from partwise.model.families.family import KV_GROUP, MLP_UNIT, Config
from partwise.model.families.llama import Llama, Sizes, input_split
from partwise.model.families.stored import StoredTensors


@dataclass(frozen=True, slots=True)
class Phi3(Llama):
    """Phi3ForCausalLM, up to its window if it has one."""

    architecture: str = "Phi3ForCausalLM"
    model_type: str = "phi3"
    default_context_tokens: int = 4096
    # What its config calls yarn is longrope to transformers.
    rope_types: tuple[str, ...] = ("default",)

    def attention(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """See `Llama.attention`."""
        groups, head_dim = sizes.num_kv_heads, sizes.head_dim
        query_width = sizes.heads_per_group * head_dim
        axes, offset = [], 0
        for width in (query_width, head_dim, head_dim):
            axes.append(NeuronAxis(kind=KV_GROUP, axis=0, width=width, offset=offset))
            offset += groups * width
        shape = (sizes.hidden, groups * query_width)
        output = NeuronAxis(kind=KV_GROUP, axis=1, width=query_width)
        return [
            tensors.take(f"{name}.qkv_proj.weight", (offset, sizes.hidden), *axes),
            *input_split(tensors, f"{name}.o_proj", shape, output, has_bias=False),
        ]

    def mlp(
        self, tensors: StoredTensors, config: Config, sizes: Sizes, name: str
    ) -> list[Parameter]:
        """See `Llama.mlp`."""
        units = sizes.intermediate
        axes = [NeuronAxis(kind=MLP_UNIT, axis=0, width=1, offset=offset) for offset in (0, units)]
        output = NeuronAxis(kind=MLP_UNIT, axis=1, width=1)
        return [
            tensors.take(f"{name}.gate_up_proj.weight", (2 * units, sizes.hidden), *axes),
            *input_split(
                tensors, f"{name}.down_proj", (sizes.hidden, units), output, has_bias=False
            ),
        ]

    def window_tokens(self, config: Config) -> int | None:
        """See `Llama.window_tokens`."""
        if config.values.get("sliding_window") is None:
            return None
        return config.size("sliding_window", 1)
