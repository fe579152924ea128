"""The comparison with transformers must fail when the graph is broken, as in
tests/scenarios/test_mutations.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle_comparison import BOUND, Comparison
from partwise.launch.listening import make_onnx_runner
from partwise.part.onnx import block, build, cache, layers, session
from partwise.part.onnx.block import BlockWriter
from partwise.part.onnx.kv import KvPool
from partwise.part.onnx.shape import Shape
from support.decoders import save_decoder
from support.oracle import Oracle, random_prompts
from support.parts import Parts, Setting

MARGIN = 50
"""By how many bounds each mutation must move the logits."""
PROMPTS = random_prompts(200, 5, seed=11)
MAX_TOKENS = 6

Patch = pytest.MonkeyPatch


def no_rope(patch: Patch) -> None:
    def rotary_tables(*_: Any) -> tuple[np.ndarray, np.ndarray]:
        cosines, sines = original(*_)
        return np.ones_like(cosines), np.zeros_like(sines)

    original = layers.rotary_tables
    patch.setattr(layers, "rotary_tables", rotary_tables)


def lengths_off_by_one(patch: Patch) -> None:
    """Decoded tokens see one past token less, and are turned as if they stood there."""
    original = session.Graph.run

    def run(self: Any, hidden: Any, start: int, lengths: list[int], *words: Any) -> Any:
        is_decoding = hidden.shape[1] == 1 and min(lengths) > 1
        return original(self, hidden, start, [n - is_decoding for n in lengths], *words)

    patch.setattr(session.Graph, "run", run)


def rows_of_others(patch: Patch) -> None:
    """Slots are swapped, what is in them is not."""
    patch.setattr(KvPool, "_move", lambda *_: None)

    def swap(self: KvPool, one: int, other: int) -> None:
        self._slots[one], self._slots[other] = self._slots[other], self._slots[one]

    patch.setattr(KvPool, "_swap", swap)


def caches_do_not_grow(patch: Patch) -> None:
    """What was there before a new class is forgotten."""
    original = KvPool._grow

    def grow(self: KvPool, num_slots: int, length: int) -> None:
        kept, self._lengths = self._lengths, dict.fromkeys(self._lengths, 0)
        original(self, num_slots, length)
        self._lengths = kept

    patch.setattr(KvPool, "_grow", grow)


def no_attention(patch: Patch) -> None:
    patch.setattr(BlockWriter, "write_attention", lambda self, layer, index, residual: residual)
    patch.setattr(layers, "_declare_caches", lambda graph, *_: None)
    patch.setattr(session._Window, "__init__", _window_without_caches(session._Window.__init__))


def _window_without_caches(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, opened: Any, sizes: Any, caches: Any) -> None:
        original(self, opened, sizes, [])

    return init


def skip_an_mlp(patch: Patch) -> None:
    original = BlockWriter.write_mlp

    def write_mlp(self: BlockWriter, layer: Any, residual: Any) -> Any:
        return residual if layer.name.endswith(".1") else original(self, layer, residual)

    patch.setattr(BlockWriter, "write_mlp", write_mlp)


def change_the_epsilon(patch: Patch) -> None:
    original = Shape.read

    def read(*given: Any) -> Shape:
        shape = original(*given)
        return dataclasses.replace(shape, norm_epsilon=shape.norm_epsilon / 10)

    patch.setattr(layers.Shape, "read", staticmethod(read))


def drop_biases(patch: Patch) -> None:
    patch.setattr(block, "_by_suffix", _without(block._by_suffix, ".bias"))


def drop_head_norms(patch: Patch) -> None:
    patch.setattr(block, "_by_suffix", _without(block._by_suffix, "q_norm.weight"))


def _without(original: Callable[[Any], dict[str, Any]], end: str) -> Callable[[Any], Any]:
    return lambda layer: {n: p for n, p in original(layer).items() if not n.endswith(end)}


def swap_gate_and_up(patch: Patch) -> None:
    original = BlockWriter._gate_and_up
    patch.setattr(BlockWriter, "_gate_and_up", lambda *given: original(*given)[::-1])


MUTATIONS = [
    ("llama", no_rope),
    ("llama", lengths_off_by_one),
    ("llama", caches_do_not_grow),
    ("llama", no_attention),
    ("llama", skip_an_mlp),
    ("llama", change_the_epsilon),
    ("llama", drop_biases),
    ("llama", swap_gate_and_up),
    ("qwen3", drop_head_norms),
]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.mark.parametrize(
    ("name", "mutate"), [pytest.param(*case, id=case[1].__name__) for case in MUTATIONS]
)
def test_the_comparison_fails_when_the_graph_is_broken(
    name: str,
    mutate: Callable[[Patch], None],
    oracle: Oracle,
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    path = save_decoder(tmp_path, name)
    oracle.references(path, PROMPTS, MAX_TOKENS)
    mutate(monkeypatch)
    for module in (build, cache):
        monkeypatch.setattr(module, "BUILDER_VERSION", -1)
    setting = Setting(num_parts=2, make_runner=make_onnx_runner)
    comparison = oracle.compare(path, PROMPTS, MAX_TOKENS, setting)
    assert comparison.max_abs_difference > MARGIN * BOUND
    assert not comparison.is_within_bounds


@pytest.mark.parametrize("is_broken", [False, True])
def test_so_it_does_when_caches_do_not_move_with_their_sequences(
    is_broken: bool, oracle: Oracle, tiny_llama: Path, monkeypatch: Patch
) -> None:
    if is_broken:
        rows_of_others(monkeypatch)
    comparison = Comparison(model="tiny", parts=1, mode="batched")
    setting = Setting(num_parts=1, make_runner=make_onnx_runner)
    prompts, lengths = random_prompts(20, 30, 40, seed=3), (3, 9, 9)
    with Parts(tiny_llama, setting) as parts:
        running = [
            parts.submit(prompt, length, wants_logits=True)
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        for number, (generation, length) in enumerate(zip(running, lengths, strict=True)):
            (reference,) = oracle.references(tiny_llama, [prompts[number]], length)
            comparison.add(number, reference, list(generation))
    assert (comparison.max_abs_difference > MARGIN * BOUND) == is_broken
    assert comparison.is_within_bounds != is_broken
