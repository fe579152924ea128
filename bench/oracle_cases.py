"""The models and prompts of `oracle.py`, and what transformers computes for them.

transformers runs one prompt at a time, with one thread and its own KV cache.
"""

from __future__ import annotations

import json
import pydoc_data.topics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oracle_comparison import Reference
from partwise.engine.text import Text

MIN_PROMPT_TOKENS, MAX_PROMPT_TOKENS = 20, 300
RANDOM_PROMPT_TOKENS = 200
RANDOM_VOCAB_SIZE = 1000
LLAMA_RANGE, GPT2_RANGE = 0.1, 0.2
"""Initializer ranges: large enough for diverse ids (30 and 11 of 32), small enough that the
rounding of fp32 is no larger than in a trained network. Of transformers' own logits fp32 and
fp64 differ by 2e-5 with these, by 4e-4 (llama) with 0.3."""
QUESTIONS = (
    "What is the capital of France?",
    "Explain how a car engine works, in detail, for a child of ten years.",
    "Write a short poem about the sea.",
    "Which is larger, 9.11 or 9.9? Think step by step.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model directory and the prompts that are run on it."""

    name: str
    path: Path
    prompts: tuple[tuple[int, ...], ...]


def make_cases(folder: Path, smollm2: Path, num_prompts: int) -> list[Case]:
    """The real model, and a random one of each family saved under ``folder``."""
    prompts = real_prompts(Text(smollm2), num_prompts)
    return [
        Case(name="SmolLM2-135M-Instruct", path=smollm2, prompts=prompts),
        Case(
            name="random llama", path=save_llama(folder / "llama", 11),
            prompts=random_prompts(num_prompts, 12),
        ),
        Case(
            name="random gpt2", path=save_gpt2(folder / "gpt2", 13),
            prompts=random_prompts(num_prompts, 14),
        ),
        Case(
            name="random mixtral", path=save_mixtral(folder / "mixtral", 18),
            prompts=random_prompts(max(1, num_prompts // 4), 19),
        ),
    ]  # fmt: skip


def real_prompts(text: Text, count: int) -> tuple[tuple[int, ...], ...]:
    """Chat questions and pieces of Python's manual, evenly spread over the lengths."""
    questions = [text.encode_chat(question) for question in QUESTIONS[: max(1, count // 5)]]
    num_pieces = count - len(questions)
    lengths = np.linspace(MIN_PROMPT_TOKENS, MAX_PROMPT_TOKENS, max(1, num_pieces)).astype(int)
    topics = (text.encode(topic.strip()) for _, topic in sorted(pydoc_data.topics.topics.items()))
    long_enough = [ids for ids in topics if len(ids) >= MAX_PROMPT_TOKENS]
    pieces = [ids[:n] for ids, n in zip(long_enough[:num_pieces], lengths, strict=False)]
    assert len(questions) + len(pieces) == count, f"there is text for {len(pieces)} prompts"
    return tuple(questions + pieces)


def random_prompts(count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Random ids, all of one length."""
    ids = np.random.default_rng(seed).integers(
        0, RANDOM_VOCAB_SIZE, size=(count, RANDOM_PROMPT_TOKENS)
    )
    return tuple(tuple(map(int, row)) for row in ids)


def save_llama(folder: Path, seed: int) -> Path:
    """A random llama of 8 layers with grouped KV heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        vocab_size=RANDOM_VOCAB_SIZE,
        initializer_range=LLAMA_RANGE,
    )
    return save(LlamaForCausalLM, config, folder, seed)


def save_gpt2(folder: Path, seed: int) -> Path:
    """A random gpt2 of 8 layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=128,
        n_layer=8,
        n_head=4,
        n_positions=512,
        bos_token_id=0,
        eos_token_id=0,
        vocab_size=RANDOM_VOCAB_SIZE,
        initializer_range=GPT2_RANGE,
    )
    return save(GPT2LMHeadModel, config, folder, seed)


def save_mixtral(folder: Path, seed: int) -> Path:
    """A random mixtral of 4 layers, 2 of 8 experts for each token.

    Small, and of a seed, so that no token's second and third expert tie: where they do, rounding
    chooses. In 20 prompts through 8 layers two of the router's logits came within 3e-8; here,
    with `make_cases`'s 5 prompts, none within 1.6e-4.
    """
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        hidden_size=128,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        vocab_size=RANDOM_VOCAB_SIZE,
        initializer_range=LLAMA_RANGE,
    )
    return save(MixtralForCausalLM, config, folder, seed)


def save(network_class: Any, config: Any, folder: Path, seed: int) -> Path:
    """Make a network whose every parameter matters to its logits, and save it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = network_class(config)
        with torch.no_grad():
            # Norms start at one and biases at zero: a runner that drops one would pass unseen.
            for parameter in network.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    # A deployment wants a tokenizer; nothing is encoded with this one.
    vocab = {f"t{i}": i for i in range(RANDOM_VOCAB_SIZE)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    return folder


def run_transformers(case: Case, num_tokens: int) -> list[Reference]:
    """Greedy generation of every prompt of ``case`` on its own."""
    network = load_network(case.path)
    return [generate(network, prompt, num_tokens) for prompt in case.prompts]


def load_network(path: Path) -> Any:
    """The whole model as transformers runs it, in fp32; from now on torch uses one thread."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    network = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    # Every sequence runs to its full length, and no id is suppressed for that.
    network.generation_config.eos_token_id = None
    return network


def generate(network: Any, prompt: Sequence[int], num_tokens: int) -> Reference:
    """One prompt, as transformers runs it by itself."""
    import torch

    output = network.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=num_tokens,
        do_sample=False,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    ids = tuple(output.sequences[0, len(prompt) :].tolist())
    assert len(ids) == num_tokens, f"transformers stopped after {len(ids)} of {num_tokens} tokens"
    return Reference(ids=ids, logits=torch.cat(output.logits).numpy())
