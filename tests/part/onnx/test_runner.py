"""The onnx runner against transformers, whatever the cuts, the chunks and the company."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from oracle_comparison import Comparison
from partwise.distributor import balance_layers
from partwise.engine.scheduler import Limits
from partwise.launch.listening import make_onnx_runner, make_torch_runner
from partwise.model import open_model
from partwise.part.onnx.runner import OnnxRunner
from partwise.part.runner import RunnerOptions
from partwise.remote.frame import Row, RowFlag
from partwise.store import Store
from support.decoders import DECODERS, save_decoder
from support.oracle import Oracle, random_prompts
from support.parts import Parts, Setting

PROMPTS = random_prompts(150, 3, 40, seed=5)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture(scope="module", params=list(DECODERS))
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    return save_decoder(tmp_path_factory.mktemp(name.replace(" ", "-")), name)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_logits_are_those_of_transformers(decoder: Path, parts: int, oracle: Oracle) -> None:
    setting = Setting(num_parts=parts, make_runner=make_onnx_runner)
    comparison = oracle.compare(decoder, PROMPTS, 6, setting)
    assert comparison.is_within_bounds, comparison


def test_the_torch_runner_knows_the_same_families(decoder: Path, oracle: Oracle) -> None:
    comparison = oracle.compare(decoder, PROMPTS, 6, Setting(make_runner=make_torch_runner))
    assert comparison.is_within_bounds, comparison


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_prompts_come_in_chunks_of_any_size(
    chunk_tokens: int, tiny_llama: Path, oracle: Oracle
) -> None:
    limits = Limits(max_in_flight=2, chunk_tokens=chunk_tokens)
    setting = Setting(make_runner=make_onnx_runner, limits=limits)
    comparison = oracle.compare(tiny_llama, PROMPTS, 6, setting)
    assert comparison.is_within_bounds, comparison


def test_rows_join_and_leave_while_others_are_decoded(tiny_llama: Path, oracle: Oracle) -> None:
    prompts = random_prompts(*range(2, 60, 5), seed=9)
    lengths = list(itertools.islice(itertools.cycle((9, 3, 17, 6)), len(prompts)))
    limits = Limits(max_in_flight=2, max_sequences=5)  # the others join as these leave
    comparison = Comparison(model="tiny", parts=2, mode="batched")
    with Parts(tiny_llama, Setting(make_runner=make_onnx_runner, limits=limits)) as parts:
        running = [
            parts.submit(prompt, length, wants_logits=True)
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        for number, (generation, length) in enumerate(zip(running, lengths, strict=True)):
            (reference,) = oracle.references(tiny_llama, [prompts[number]], length)
            comparison.add(number, reference, list(generation))
    assert comparison.is_within_bounds, comparison


def test_caches_grow_over_their_classes(tiny_llama: Path, oracle: Oracle) -> None:
    prompts = random_prompts(136, 270, seed=3)  # the first is in the next class after 8 tokens
    comparison = oracle.compare(tiny_llama, prompts, 20, Setting(make_runner=make_onnx_runner))
    assert comparison.is_within_bounds, comparison


def test_the_real_model_says_the_same(smollm2: Path, oracle: Oracle) -> None:
    prompts = random_prompts(60, seed=4, vocab_size=40000)
    setting = Setting(num_parts=2, make_runner=make_onnx_runner)
    comparison = oracle.compare(smollm2, prompts, 4, setting)
    assert comparison.max_abs_difference < 1e-3
    assert comparison.num_wrong_ids == 0


def test_one_sequence_may_go_on_several_times_in_a_pass(tiny_llama: Path) -> None:
    with Parts(tiny_llama, Setting(make_runner=make_onnx_runner)) as parts:
        (together,) = parts.generate([PROMPTS[1]], 1)
    plan = balance_layers(open_model(tiny_llama), ["one"], runner="onnx")
    with Store.open(tiny_llama) as store:
        runner = OnnxRunner(
            RunnerOptions(
                plan=plan, part=plan.parts[0].name, model=open_model(tiny_llama),
                model_path=tiny_llama, store=store, threads=1,
                on_progress=lambda done_bytes, total_bytes: None,
            )
        )  # fmt: skip
    ids = np.array(PROMPTS[1], np.int64)
    rows = (Row(0, 0, len(ids) - 1), Row(0, len(ids) - 1, 1, RowFlag.PICK))
    assert runner.run(rows, (ids,), lambda: None)[0].tolist() == [together[0].token_id]


def test_norms_have_the_familys_epsilon_where_the_config_has_none(
    tmp_path: Path, oracle: Oracle
) -> None:
    path = save_decoder(tmp_path, "phi3", rms_norm_eps=1e-5)
    config = json.loads((path / "config.json").read_text())
    del config["rms_norm_eps"]
    (path / "config.json").write_text(json.dumps(config))
    comparison = oracle.compare(path, PROMPTS, 6, Setting(make_runner=make_onnx_runner))
    assert comparison.is_within_bounds, comparison
