"""Families against the modules that transformers builds from the same config."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from partwise.errors import DamagedModel, ModelError, UnknownArchitecture
from partwise.model import LayerKind, Model, Parameter, TensorEntry, describe_config
from partwise.model.families import find_family

LLAMA = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 40, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 64}
CONFIGS: list[PreTrainedConfig] = [
    LlamaConfig(**LLAMA),
    LlamaConfig(**LLAMA, tie_word_embeddings=True),
    LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, head_dim=10),
    LlamaConfig(**(LLAMA | {"num_key_value_heads": None})),
    GPT2Config(**GPT2),
    GPT2Config(**GPT2, tie_word_embeddings=False, n_inner=36),
]
IDS = ["llama", "llama-tied", "llama-biases", "llama-no-groups", "gpt2", "gpt2-untied"]


def as_json(config: PreTrainedConfig, architecture: str) -> dict[str, Any]:
    return config.to_diff_dict() | {"architectures": [architecture]}


def build(config: PreTrainedConfig) -> tuple[dict[str, Any], torch.nn.Module]:
    """config.json's content and the module, without memory for its weights."""
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    return as_json(config, type(module).__name__), module


def entry(name: str, shape: tuple[int, ...], dtype: str = "F32") -> TensorEntry:
    size = 4 * math.prod(shape)
    return TensorEntry(
        name=name, dtype=dtype, shape=shape, file=Path("x"), offset=8, num_bytes=size
    )


def stored(module: torch.nn.Module) -> dict[str, TensorEntry]:
    """The headers that ``module.save_pretrained`` would write: tied weights once."""
    return {name: entry(name, tuple(p.shape)) for name, p in module.named_parameters()}


def describe(config: dict[str, Any], entries: dict[str, TensorEntry]) -> Model:
    return find_family(config).describe(config, entries, "tiny")


@pytest.fixture(params=CONFIGS, ids=IDS)
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], torch.nn.Module]:
    return build(request.param)


def test_parameters_are_those_of_the_module(case: tuple[dict[str, Any], torch.nn.Module]) -> None:
    config, module = case
    model = describe(config, stored(module))
    found = {p.name: p.shape for p in model.parameters}
    assert found == {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert len(model.parameters) == len(found)
    assert model.num_parameters == sum(p.numel() for p in module.parameters())
    tied = [p for p in model.parameters if p.alias_of is not None]
    names = dict(module.named_parameters(remove_duplicate=False))
    assert all(names[p.name] is names[p.alias_of or ""] for p in tied)
    assert len(tied) == len(names) - len(stored(module))


def test_a_config_alone_describes_what_its_headers_do(
    case: tuple[dict[str, Any], torch.nn.Module],
) -> None:
    config, module = case
    assert describe_config(config, "tiny") == describe(config, stored(module))


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_config_alone_says_how_its_weights_are_stored(key: str) -> None:
    config, _ = build(CONFIGS[1])
    config.pop("dtype", None)
    assert {p.dtype for p in describe_config(config, "tiny").parameters} == {"F32"}
    model = describe_config(config | {key: "bfloat16"}, "tiny")
    assert {p.dtype for p in model.parameters} == {"BF16"}
    with pytest.raises(ModelError, match="dtype = 'int8', weights are in float64"):
        describe_config(config | {key: "int8"}, "tiny")


def test_layers_are_the_modules_of_the_state_dict(
    case: tuple[dict[str, Any], torch.nn.Module],
) -> None:
    config, module = case
    model = describe(config, stored(module))
    kinds = [layer.kind for layer in model.layers]
    blocks = [LayerKind.BLOCK] * 3
    assert kinds == [LayerKind.EMBEDDING, *blocks, LayerKind.NORM, LayerKind.HEAD]
    for layer in model.layers[1:]:
        expected = {
            f"{layer.name}.{n}" for n, _ in module.get_submodule(layer.name).named_parameters()
        }
        assert {p.name for p in layer.parameters} == expected
    assert model.context_tokens == 64
    assert model.cut_tensors[0].width == model.hidden_size == 24


def test_a_block_reads_its_weights_once_a_token_and_an_embedding_one_row(
    case: tuple[dict[str, Any], torch.nn.Module],
) -> None:
    config, module = case
    model = describe(config, stored(module))
    embedding, block, head = model.layers[0], model.layers[1], model.layers[-1]
    tables = len(embedding.parameters)
    assert (embedding.read_elements_per_token, embedding.macs_per_token) == (tables * 24, 0)
    weights = list(module.get_submodule(block.name).parameters())
    assert block.read_elements_per_token == sum(w.numel() for w in weights)
    assert block.macs_per_token == sum(w.numel() for w in weights if w.dim() == 2)
    assert head.read_elements_per_token == head.macs_per_token == 40 * 24


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
def test_kv_elements_are_what_the_cache_keeps_for_a_token(config: PreTrainedConfig) -> None:
    module = AutoModelForCausalLM.from_config(config).eval()
    model = describe(as_json(config, type(module).__name__), stored(module))
    cache = module(torch.arange(5)[None], use_cache=True).past_key_values
    kept = cache.layers[1].keys.numel() + cache.layers[1].values.numel()
    assert kept == 5 * model.layers[2].kv_elements_per_token


def zero_neurons(
    module: torch.nn.Module, parameters: list[Parameter], kind: str, start: int, stop: int
) -> None:
    """Clear the elements of neurons ``start:stop``."""
    weights = dict(module.named_parameters())
    for parameter in parameters:
        weight = weights[parameter.name]
        axes = [axis for axis in parameter.neurons if axis.kind == kind]
        for axis in axes:
            length = (stop - start) * axis.width
            weight.narrow(axis.axis, axis.offset + start * axis.width, length).zero_()


@pytest.mark.parametrize("config", CONFIGS, ids=IDS)
@pytest.mark.parametrize("kind", ["kv_group", "mlp_unit"])
@torch.no_grad()
def test_the_partial_sums_of_two_members_are_the_whole_layer(
    config: PreTrainedConfig, kind: str
) -> None:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).eval()
    for weight in module.parameters():
        weight.normal_(std=0.3)
    model = describe(as_json(config, type(module).__name__), stored(module))
    block = model.layers[2]
    count = next(k.count for k in block.neuron_kinds if k.name == kind)
    place = {"kv_group": ("self_attn", "attn"), "mlp_unit": ("mlp",)}[kind]
    inside = [
        p for p in block.parameters if p.name.removeprefix(block.name + ".").startswith(place)
    ]
    for parameter in inside:
        if not parameter.neurons:  # the bias of the sum, which one member alone would add
            dict(module.named_parameters())[parameter.name].zero_()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    outputs = []
    sub = next(s for n, s in module.get_submodule(block.name).named_children() if n in place)
    sub.register_forward_hook(
        lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    first = (0, count // 2)
    second = (count // 2, count)
    for cleared in ((0, 0), first, second):
        module.load_state_dict(before)
        zero_neurons(module, inside, kind, *cleared)
        module(torch.arange(7)[None])
    whole, one, other = outputs
    assert one.abs().max() > 0.01
    assert other.abs().max() > 0.01
    torch.testing.assert_close(one + other, whole, rtol=1e-4, atol=1e-4)


def test_every_element_of_a_split_parameter_belongs_to_one_neuron(
    case: tuple[dict[str, Any], torch.nn.Module],
) -> None:
    config, module = case
    model = describe(config, stored(module))
    for layer in model.layers:
        counts = {kind.name: kind.count for kind in layer.neuron_kinds}
        for parameter in layer.parameters:
            if parameter.neurons:
                spans = sorted(
                    (a.offset, a.offset + counts[a.kind] * a.width) for a in parameter.neurons
                )
                length = parameter.shape[parameter.neurons[0].axis]
                assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
                assert spans[-1][1] == length


def test_the_same_files_without_the_prefix_are_found_under_their_stored_names() -> None:
    for index in (0, 4):
        config, module = build(CONFIGS[index])
        prefix = module.base_model_prefix + "."
        full = stored(module)
        bare = {
            n.removeprefix(prefix): entry(n.removeprefix(prefix), e.shape) for n, e in full.items()
        }
        model = describe(config, bare)
        assert {p.name for p in model.parameters} == set(module.state_dict())
        assert {p.stored_name for p in model.parameters} == bare.keys()
        assert model.fingerprint == describe(config, full).fingerprint


def test_buffers_of_old_checkpoints_are_ignored() -> None:
    config, module = build(CONFIGS[4])
    old = [entry(f"h.1.attn.{n}", (1, 1, 64, 64)) for n in ("bias", "masked_bias")]
    model = describe(config, stored(module) | {e.name: e for e in old})
    assert not {e.name for e in old} & {p.stored_name for p in model.parameters}
    config, module = build(CONFIGS[0])
    old_llama = entry("model.layers.1.self_attn.rotary_emb.inv_freq", (2,))
    describe(config, stored(module) | {old_llama.name: old_llama})


def test_a_tied_pair_stored_once_as_the_head_is_read_from_there() -> None:
    config, module = build(CONFIGS[1])
    entries = stored(module)
    table = entries.pop("model.embed_tokens.weight")
    model = describe(config, entries | {"lm_head.weight": replace(table, name="lm_head.weight")})
    embedding, head = model.layers[0].parameters[0], model.layers[-1].parameters[0]
    assert (embedding.name, embedding.stored_name) == (table.name, "lm_head.weight")
    assert (head.alias_of, head.stored_name) == (table.name, "lm_head.weight")


def test_a_tied_pair_stored_twice_is_two_parameters() -> None:
    config, module = build(CONFIGS[4])
    model = describe(config, stored(module) | {"lm_head.weight": entry("lm_head.weight", (40, 24))})
    assert [p.alias_of for p in model.layers[-1].parameters] == [None]


def test_a_missing_tensor_is_named_with_the_shape_expected() -> None:
    config, module = build(CONFIGS[0])
    entries = stored(module)
    del entries["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(
        DamagedModel, match=r"'model.layers.1.mlp.up_proj.weight' is missing.*\[20, 24\]"
    ):
        describe(config, entries)


def test_a_tensor_of_another_shape_is_named_with_both() -> None:
    config, module = build(CONFIGS[4])
    name = "transformer.h.2.attn.c_attn.weight"
    with pytest.raises(DamagedModel, match=rf"'{name}' has shape \[72, 24\].*expects \[24, 72\]"):
        describe(config, stored(module) | {name: entry(name, (72, 24))})


def test_a_tensor_without_a_place_is_refused() -> None:
    config, module = build(CONFIGS[0])
    extra = entry("model.layers.3.mlp.up_proj.weight", (20, 24))
    with pytest.raises(DamagedModel, match=rf"'{extra.name}' \(and 0 more\) has no place"):
        describe(config, stored(module) | {extra.name: extra})


def test_a_dtype_that_holds_no_weights_is_refused() -> None:
    config, module = build(CONFIGS[0])
    packed = entry("model.norm.weight", (24,), dtype="I8")
    with pytest.raises(ModelError, match=r"has dtype I8 .*not quantised"):
        describe(config, stored(module) | {packed.name: packed})


@pytest.mark.parametrize(
    ("index", "change", "error", "message"),
    [
        (4, {"add_cross_attention": True}, ModelError, "sets add_cross_attention = True"),
        (4, {"quantization_config": {"bits": 4}}, ModelError, "sets quantization_config = {'bits"),
        (0, {"quantization_config": {"bits": 4}}, ModelError, "sets quantization_config = {'bits"),
        (0, {"num_hidden_layers": 0}, DamagedModel, "num_hidden_layers = 0, expected a whole"),
        (0, {"hidden_size": "24"}, DamagedModel, "hidden_size = '24', expected a whole"),
        (0, {"vocab_size": True}, DamagedModel, "vocab_size = True, expected a whole"),
        (0, {"attention_bias": "no"}, DamagedModel, "attention_bias = 'no', expected true"),
        (
            0,
            {"num_key_value_heads": 4},
            DamagedModel,
            "= 6, .* multiple of num_key_value_heads = 4",
        ),
        (4, {"n_head": 5}, DamagedModel, "n_embd = 24, .* multiple of n_head = 5"),
    ],
)
def test_config_values_without_support_are_refused_by_name(
    index: int, change: dict[str, Any], error: type[ModelError], message: str
) -> None:
    config, module = build(CONFIGS[index])
    with pytest.raises(error, match=message):
        describe(config | change, stored(module))


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
        {"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"},
        {"architectures": ["LlamaForCausalLM"], "model_type": "mistral"},
        {"model_type": "mamba"},
        {},
    ],
)
def test_an_unknown_architecture_is_named_beside_the_known_ones(config: dict[str, Any]) -> None:
    with pytest.raises(UnknownArchitecture, match=r"LlamaForCausalLM .*GPT2LMHeadModel") as caught:
        find_family(config)
    for word in (*config.get("architectures", []), config.get("model_type", "no architecture")):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2"},
        {"architectures": ["GPT2LMHeadModel"]},
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
    ],
)
def test_a_family_is_found_by_either_name(config: dict[str, Any]) -> None:
    assert find_family(config).architecture == "GPT2LMHeadModel"


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", ["rope_type", "type"])
def test_rotary_positions_that_depend_on_the_whole_call_are_refused(key: str, name: str) -> None:
    config, module = build(LlamaConfig(**LLAMA))
    entries = stored(module)
    for kind in ("default", "linear", "dynamic", "llama3", "yarn", None):
        describe(config | {key: {name: kind}}, entries)
    for kind in ("longrope", "su", "mrope", ["yarn"]):
        with pytest.raises(ModelError, match="rotary positions of type .*: take a model with"):
            describe(config | {key: {name: kind}}, entries)
