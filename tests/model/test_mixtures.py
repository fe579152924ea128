"""Mixtures of experts against what transformers saves of them, expert by expert."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from partwise.errors import DamagedModel
from partwise.model import LayerKind, Model, TensorEntry, describe_config, open_model
from partwise.model.families import find_family
from partwise.model.headers import read_config, read_headers

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MIXTRAL = MixtralConfig(**SIZES, num_local_experts=5, num_experts_per_tok=2)
QWEN3 = Qwen3MoeConfig(
    **SIZES, head_dim=8, num_experts=5, num_experts_per_tok=3, moe_intermediate_size=8,
    mlp_only_layers=[0],
)  # fmt: skip
CASES: list[tuple[Any, Any, int, int]] = [
    (MixtralForCausalLM, MIXTRAL, 2, 20),
    (Qwen3MoeForCausalLM, QWEN3, 3, 8),
]
IDS = ["mixtral", "qwen3_moe"]


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A directory, the network saved in it, its experts for a token and their width."""
    network_class, config, num_chosen, width = request.param
    torch.manual_seed(0)
    network = network_class(config).eval()
    folder = tmp_path_factory.mktemp(config.model_type)
    network.save_pretrained(folder)
    return folder, network, num_chosen, width


def describe(folder: Path, entries: dict[str, TensorEntry], **changes: object) -> Model:
    config = read_config(folder) | changes
    return find_family(config).describe(config, entries, folder.name)


def test_each_tensor_of_the_files_is_a_parameter(saved: Any) -> None:
    folder, network, *_ = saved
    model, entries = open_model(folder), read_headers(folder)
    assert {p.stored_name: p.shape for p in model.parameters} == {
        name: entry.shape for name, entry in entries.items()
    }
    assert len(model.parameters) == len(entries)
    assert model.num_parameters == sum(p.numel() for p in network.parameters())


def test_the_config_alone_describes_the_same(saved: Any) -> None:
    folder = saved[0]
    assert describe_config(read_config(folder), folder.name) == open_model(folder)


def test_parameters_are_called_as_in_the_module_but_for_the_experts(saved: Any) -> None:
    folder, network, *_ = saved
    names = {p.name for p in open_model(folder).parameters}
    stacked = {name for name in network.state_dict() if ".experts." in name}
    assert {name for name in names if ".experts." not in name} | stacked == set(
        network.state_dict()
    )
    assert {name.rpartition(".experts.")[0] for name in names if ".experts." in name} == {
        name.rpartition(".experts.")[0] for name in stacked
    }


def test_every_expert_owns_its_own_tensors_and_no_other_elements(saved: Any) -> None:
    model = open_model(saved[0])
    for layer in model.layers:
        if layer.chosen_kind is None:
            assert not any(".experts." in p.name for p in layer.parameters)
            continue
        assert layer.kind is LayerKind.BLOCK
        owned = dict.fromkeys(range(layer.chosen_kind.count), 0)
        for parameter in layer.parameters:
            number = re.search(r"\.experts\.(\d+)\.", parameter.stored_name)
            if number is None:
                assert all(axis.kind == "kv_group" for axis in parameter.neurons)
                continue
            (axis,) = parameter.neurons
            assert (axis.kind, axis.width) == ("expert", parameter.shape[axis.axis])
            start, stop = parameter.neuron_span
            assert (start, stop) == (int(number[1]), int(number[1]) + 1)
            owned[start] += parameter.num_elements
        assert set(owned.values()) == {3 * 24 * saved[3]}


def test_a_token_reads_and_multiplies_with_the_experts_chosen(saved: Any) -> None:
    folder, network, num_chosen, width = saved
    block = open_model(folder).layers[2]
    module = network.get_submodule(block.name)
    rest = [p for name, p in module.named_parameters() if ".experts." not in name]
    experts = num_chosen * 3 * 24 * width
    assert block.read_elements_per_token == sum(p.numel() for p in rest) + experts
    assert block.macs_per_token == sum(p.numel() for p in rest if p.dim() == 2) + experts
    assert block.num_elements == sum(p.numel() for p in module.parameters())


def test_kv_elements_are_what_the_cache_keeps_for_a_token(saved: Any) -> None:
    folder, network, *_ = saved
    cache = network(torch.arange(5)[None], use_cache=True).past_key_values
    kept = cache.layers[1].keys.numel() + cache.layers[1].values.numel()
    assert kept == 5 * open_model(folder).layers[2].kv_elements_per_token


def test_blocks_alike_are_alike_whatever_their_experts_are_called(saved: Any) -> None:
    model = open_model(saved[0])
    assert model.alike[2] == model.alike[3]
    assert (model.alike[1] == model.alike[2]) == (model.architecture == "MixtralForCausalLM")


def test_a_missing_expert_is_named_as_files_call_it(saved: Any) -> None:
    folder = saved[0]
    entries = read_headers(folder)
    name = next(name for name in sorted(entries) if "layers.2" in name and ".experts.4." in name)
    del entries[name]
    with pytest.raises(DamagedModel, match=rf"'{re.escape(name)}' is missing.*with shape \["):
        describe(folder, entries)


def test_an_expert_too_many_has_no_place(saved: Any) -> None:
    folder = saved[0]
    entries = read_headers(folder)
    name = next(name for name in sorted(entries) if "layers.2" in name and ".experts.4." in name)
    more = name.replace(".experts.4.", ".experts.5.")
    shape = entries[name].shape
    entries[more] = TensorEntry(
        name=more, dtype="F32", shape=shape, file=Path("x"), offset=0, num_bytes=math.prod(shape)
    )
    with pytest.raises(DamagedModel, match=rf"'{re.escape(more)}' \(and 0 more\) has no place"):
        describe(folder, entries)


def test_more_experts_for_a_token_than_there_are_are_refused(saved: Any) -> None:
    folder = saved[0]
    with pytest.raises(DamagedModel, match="num_experts_per_tok = 6, but there are 5 experts"):
        describe(folder, read_headers(folder), num_experts_per_tok=6)


def test_a_window_bounds_the_context() -> None:
    config = MIXTRAL.to_dict() | {"architectures": ["MixtralForCausalLM"]}
    assert describe_config(config | {"sliding_window": 16}, "m").context_tokens == 16
    assert describe_config(config, "m").context_tokens == 64
