"""Whole versions: what they hold, and that the parts that run them see what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partwise.compress.accuracy import Accuracy, compare
from partwise.compress.blocks import dequantize, quantize
from partwise.compress.compressor import Made
from partwise.compress.encoder import Encoder
from partwise.compress.recipe import Method, Recipe
from partwise.errors import CompressionError
from partwise.part.torch.outputs import run_to_head
from partwise.store import Store, list_versions, open_version

Make = Callable[..., Made]
Windows = list[list[int]]


def measure(path: Path, version: int, windows: Windows) -> Accuracy:
    source, outputs = (run_to_head(path, v, windows, lambda a, b: None) for v in (0, version))
    return compare(source, outputs, windows)


def test_an_int4_version_holds_rounded_matrices_and_the_norms_as_they_were(
    llama: Path, make_version: Make
) -> None:
    made = make_version(llama, Recipe(bits=4, method="rtn"))
    name = "model.layers.2.mlp.down_proj.weight"
    with Store.open(llama) as source, Store.open(llama, made.manifest.version) as store:
        expected = quantize(source.read(name), bits=4, block=32, is_symmetric=True)
        np.testing.assert_array_equal(store.read(name), dequantize(expected))
        norm = "model.layers.2.input_layernorm.weight"
        np.testing.assert_array_equal(store.read(norm), source.read(norm))
        quantized = store.manifest.quantized
        assert quantized["lm_head.weight"].bits == 4
        assert quantized["model.embed_tokens.weight"].bits == 8
        assert len(quantized) == 6 * 7 + 2


def test_a_tied_head_gets_bits_of_its_own_where_they_differ_from_the_embeddings(
    tied_llama: Path, make_version: Make
) -> None:
    four = make_version(tied_llama, Recipe(bits=4)).manifest
    assert four.quantized["lm_head.weight"].bits == 4
    assert four.quantized["model.embed_tokens.weight"].bits == 8
    eight = make_version(tied_llama, Recipe(bits=8)).manifest
    assert "lm_head.weight" not in eight.quantized
    model = open_version(tied_llama, eight.version)
    assert model.layers[-1].parameters[0].alias_of == "model.embed_tokens.weight"


def test_versions_are_told_apart_by_their_fingerprints(llama: Path, make_version: Make) -> None:
    make_version(llama, Recipe(bits=8))
    make_version(llama, Recipe(bits=4))
    models = [open_version(llama, version) for version in range(3)]
    assert len({model.fingerprint for model in models}) == 3
    assert [model.version for model in models] == [0, 1, 2]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_fewer_bits_cost_more_accuracy_and_calibration_wins_some_back(
    family: str, make_version: Make, windows: Windows, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(family)
    recipes = [
        Recipe(bits=8),
        Recipe(bits=4, method="gptq", is_symmetric=False),
        Recipe(bits=4, method="rtn", is_symmetric=False),
    ]
    kl = [
        measure(path, make_version(path, recipe).manifest.version, windows).kl for recipe in recipes
    ]
    assert 0 < kl[0] < 0.1 * kl[1]
    assert kl[1] < 0.8 * kl[2]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_version_with_fewer_neurons_is_one_with_these_neurons_at_zero(
    family: str, make_version: Make, windows: Windows, request: pytest.FixtureRequest
) -> None:
    from partwise.compress.matrices import neuron_indices
    from partwise.model import open_model
    from partwise.store import new_version

    path: Path = request.getfixturevalue(family)
    made = make_version(path, Recipe(mlp_sparsity=0.5))
    model, sparse = open_model(path), open_version(path, 1)
    assert sparse.num_parameters < model.num_parameters
    with Store.open(path) as source, Store.open(path, 1) as cut, new_version(path, source) as new:
        for index, layer in enumerate(model.layers):
            full = {}
            for parameter in layer.parameters:
                if parameter.alias_of is None:
                    value = cut.read(parameter.stored_name)
                    width = value.shape[parameter.neurons[0].axis] if parameter.neurons else 0
                    for axis, _ in neuron_indices(parameter, np.arange(width)):
                        pad = [(0, 0)] * value.ndim
                        pad[axis] = (0, parameter.shape[axis] - value.shape[axis])
                        value = np.pad(value, pad)
                    full[parameter.name] = np.ascontiguousarray(value)
            if full:
                new.write(f"layer-{index}", full)
        new.commit("zeros instead", {"partwise_recipe": "zeros"})
    ours, theirs = (run_to_head(path, v, windows[:2], lambda a, b: None) for v in (1, 2))
    for state, other in zip(ours.states, theirs.states, strict=True):
        np.testing.assert_allclose(state, other, rtol=1e-4, atol=1e-4)
    assert made.manifest.derivation


def test_the_neurons_that_matter_stay_and_least_squares_make_up_for_some_of_the_others(
    llama: Path, make_version: Make, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from partwise.compress import sparse_layer

    recipe = Recipe(mlp_sparsity=0.5)
    best = measure(llama, make_version(llama, recipe).manifest.version, windows).kl
    monkeypatch.setattr(sparse_layer, "correct_down", lambda down, moments, kept: down[:, kept])
    plain = measure(llama, make_version(llama, recipe).manifest.version, windows).kl
    monkeypatch.setattr(
        sparse_layer, "rank_neurons", lambda down, moments: np.random.default_rng(0).random(160)
    )
    random = measure(llama, make_version(llama, recipe).manifest.version, windows).kl
    assert best < 0.8 * plain < plain < random


def test_sparsity_and_int4_keep_a_multiple_of_the_block(llama: Path, make_version: Make) -> None:
    made = make_version(llama, Recipe(bits=4, mlp_sparsity=0.5, method="gptq"))
    model = open_version(llama, made.manifest.version)
    assert model.layers[1].neuron_kinds[1].count == 96  # of 160; 80 is no multiple of 32
    assert made.manifest.derivation
    assert made.manifest.derivation.config["intermediate_size"] == 96


def test_two_of_four_consecutive_inputs_are_zero(llama: Path, make_version: Make) -> None:
    version = make_version(llama, Recipe(is_two_four=True)).manifest.version
    with Store.open(llama, version) as store:
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            weight = store.read(f"model.layers.0.{name}.weight")
            zeros = (weight.reshape(len(weight), -1, 4) == 0).sum(axis=-1)
            assert (zeros == 2).all()
        head = store.read("lm_head.weight")
        assert (head != 0).all()


def test_a_block_that_does_not_divide_is_refused_before_anything_is_written(
    llama: Path, make_version: Make
) -> None:
    with pytest.raises(CompressionError, match=r"160 inputs of model\.layers\.0\.mlp.* 16, 32$"):
        make_version(llama, Recipe(bits=4, block=64))
    assert list_versions(llama) == []


def test_a_model_on_a_grid_is_encoded_again_without_loss(
    llama: Path, make_version: Make, windows: Windows
) -> None:
    make_version(llama, Recipe(bits=4, is_symmetric=False, method="rtn"))
    again = make_version(llama, Recipe(bits=4, method="grid"), 1)
    assert set(again.ways) == {"int4 on its own grid", "int8 on its own grid"}
    first, second = (run_to_head(llama, v, windows[:2], lambda a, b: None) for v in (1, 2))
    for state, other in zip(first.states, second.states, strict=True):
        np.testing.assert_allclose(state, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bits", "way", "default"), [(4, "nearest", "rtn"), (8, "searched", "search")]
)
def test_a_matrix_without_a_grid_is_rounded_as_its_bits_are_by_default(
    bits: int, way: str, default: Method
) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    grid, plain = (Encoder(Recipe(bits=bits, method=method)) for method in ("grid", default))
    ours, theirs = grid.encode(weight, None), plain.encode(weight, None)
    np.testing.assert_array_equal(ours.packed, theirs.packed)
    assert grid.ways == plain.ways == {f"int{bits} {way}": 1}
