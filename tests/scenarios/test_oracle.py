"""Every distributed result is compared with the one-process network of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from partwise.engine.scheduler import Limits
from partwise.engine.sequence import Token
from partwise.remote.tcp import TcpTransport
from support.oracle import Oracle, random_prompts
from support.parts import Parts, Setting

MODELS = ["tiny_llama", "tiny_llama_tied", "tiny_gpt2", "tiny_mixtral"]
NUM_PARTS = [1, 2, 3, 5]
# Longer than a chunk, shorter, one token; together they share microbatches.
LENGTHS = (200, 3, 1, 40)
MAX_TOKENS = 8


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.mark.parametrize("num_parts", NUM_PARTS)
@pytest.mark.parametrize("model", MODELS)
def test_logits_of_every_step_are_those_of_transformers(
    model: str, num_parts: int, oracle: Oracle, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    prompts = random_prompts(*LENGTHS, seed=num_parts)
    setting = Setting(num_parts=num_parts, seed=num_parts if num_parts == 3 else None)
    comparison = oracle.compare(path, prompts, MAX_TOKENS, setting)
    assert comparison.is_within_bounds, comparison


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_chunks_of_any_size_give_the_same_logits(
    chunk_tokens: int, tiny_llama: Path, oracle: Oracle
) -> None:
    limits = Limits(max_in_flight=4, chunk_tokens=chunk_tokens, max_rows=3)
    setting = Setting(num_parts=2, limits=limits)
    comparison = oracle.compare(tiny_llama, random_prompts(50, 9), 4, setting)
    assert comparison.is_within_bounds, comparison


def test_a_generation_longer_than_the_first_kv_buffer_stays_right(
    tiny_gpt2: Path, oracle: Oracle
) -> None:
    setting = Setting(num_parts=3, transport=TcpTransport(b"x" * 32))
    comparison = oracle.compare(tiny_gpt2, random_prompts(120, 250), 20, setting)
    assert comparison.is_within_bounds, comparison


def bits(answers: list[list[Token]]) -> list[bytes]:
    return [np.stack([token.logits for token in answer]).tobytes() for answer in answers]


@pytest.mark.parametrize("model", MODELS)
def test_deterministic_logits_have_the_same_bits_for_every_number_of_parts(
    model: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    prompts = random_prompts(*LENGTHS)
    results = {}
    for num_parts in NUM_PARTS:
        limits = Limits(max_in_flight=num_parts, is_deterministic=True)
        with Parts(path, Setting(num_parts=num_parts, limits=limits)) as parts:
            # Alone and beside others: company must not change a bit either.
            alone = parts.generate(prompts[:1], MAX_TOKENS)
            results[num_parts] = bits(parts.generate(prompts, MAX_TOKENS))
            assert bits(alone) == results[num_parts][:1]
    for num_parts in NUM_PARTS[1:]:
        assert results[num_parts] == results[1], f"{num_parts} parts differ from 1"


@pytest.mark.parametrize("num_parts", [1, 3])
def test_smollm2_generates_what_transformers_generates(
    num_parts: int, smollm2: Path, oracle: Oracle
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False, tokenize=True
    )
    comparison = oracle.compare(smollm2, [prompt], 12, Setting(num_parts=num_parts, step_s=60))
    assert comparison.is_within_bounds, comparison
    assert not comparison.ties
    (reference,) = oracle.references(smollm2, [prompt], 12)
    assert "Paris" in tokenizer.decode(reference.ids)
