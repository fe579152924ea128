"""Small models of every family, with four groups of heads, and passes through them: by the parts of
a plan, by one part, and by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conftest import CONTEXT_TOKENS, INITIALIZER_RANGE, NORM_EPSILON, SPECIAL_IDS, VOCAB_SIZE, save
from oracle_cases import load_network
from partwise.distributor.plan import Plan
from partwise.model import open_model
from partwise.part.torch.runner import TorchRunner
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array
from support.decoders import save_decoder
from support.stages import Stages, plan_stages

ALL = RowFlag.PICK | RowFlag.LOGPROB | RowFlag.LOGITS
PASSES: list[tuple[Row, ...]] = [
    (Row(0, 0, 7), Row(1, 0, 3, ALL)),
    (Row(0, 7, 6), Row(1, 3, 1)),
    (Row(0, 13, 2, ALL), Row(2, 0, 5, ALL), Row(1, 4, 1, ALL)),
    (Row(0, 15, 1, ALL), Row(1, 5, 1, ALL), Row(2, 5, 1, ALL)),
    (Row(1, 6, 1, ALL),),
    (Row(2, 6, 3, RowFlag.PICK), Row(0, 16, 1, RowFlag.PICK | RowFlag.LOGPROB)),
]
"""Prompts whole, in chunks and beside others, and decoding of one row and of several."""
TEXT = np.random.default_rng(7).integers(0, VOCAB_SIZE, (3, 20))
"""The tokens of each sequence."""

Outputs = list[tuple[Array, ...]]


def save_gpt2(folder: Path, *, is_tied: bool = True) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=64, n_layer=3, n_head=4, n_positions=CONTEXT_TOKENS,
        initializer_range=INITIALIZER_RANGE, layer_norm_epsilon=NORM_EPSILON,
        tie_word_embeddings=is_tied, **SPECIAL_IDS,
    )  # fmt: skip
    return save(GPT2LMHeadModel, config, folder, seed=11)


def save_family(folder: Path, name: str) -> Path:
    """A model of one of `FAMILY_NAMES`, or ``llama of one block``."""
    if name.startswith("gpt2"):
        return save_gpt2(folder, is_tied=name == "gpt2")
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4}
    if name == "llama of one block":
        return save_decoder(folder, "llama", **(sizes | {"num_hidden_layers": 1}))
    biased = {"mlp_bias": True} if name == "llama" else {}
    return save_decoder(folder, name, **sizes, **biased)


FAMILY_NAMES = (
    "llama", "llama tied", "mistral", "qwen2", "qwen3", "phi3", "gpt2", "gpt2 untied",
)  # fmt: skip


def run_passes(
    path: Path, plan: Plan, passes: Sequence[Sequence[Row]] = PASSES
) -> tuple[Outputs, Stages]:
    """What the parts of ``plan`` say to each pass."""
    stages = Stages(path, plan, TorchRunner)
    return [stages.run(rows, list_tokens(rows)) for rows in passes], stages


def list_tokens(rows: Sequence[Row]) -> list[int]:
    """The tokens of a pass."""
    spans = [TEXT[row.sequence, row.position : row.position + row.num_tokens] for row in rows]
    return np.concatenate(spans).tolist()


@cache
def run_whole(path: Path) -> Outputs:
    """What one part of all layers says to each pass."""
    model = open_model(path)
    return run_passes(path, plan_stages(model, [(0, len(model.layers), [[]])]))[0]


@cache
def run_transformers(path: Path) -> Outputs:
    """What transformers says to each pass: each text at once, no pass by pass."""
    network = load_network(path)
    with torch.inference_mode():
        logits = network(torch.from_numpy(TEXT)).logits
    return [_say(logits, rows) for rows in PASSES]


def _say(logits: torch.Tensor, rows: Sequence[Row]) -> tuple[Array, ...]:
    asking = [row for row in rows if row.flags & RowFlag.PICK]
    if not asking:
        return (np.empty(0, np.int64),)
    own = torch.stack([logits[row.sequence, row.position + row.num_tokens - 1] for row in asking])
    outputs = [own.argmax(-1).numpy()]
    if any(row.flags & RowFlag.LOGPROB for row in asking):
        outputs.append(own.log_softmax(-1).max(-1).values.numpy())
    if any(row.flags & RowFlag.LOGITS for row in asking):
        outputs.append(own.numpy())
    return tuple(outputs)


@dataclass(frozen=True, slots=True)
class Difference:
    """``relative`` to the largest value; ``num_other_ids`` of all that were picked."""

    relative: float
    num_other_ids: int

    @property
    def is_small(self) -> bool:
        """What is promised of neurons on several servers."""
        return self.relative < 1e-4 and self.num_other_ids == 0


def compare(found: Outputs, expected: Outputs) -> Difference:
    """How the outputs of passes differ."""
    relative, num_other_ids = 0.0, 0
    for ours, theirs in zip(found, expected, strict=True):
        assert [(t.dtype, t.shape) for t in ours] == [(t.dtype, t.shape) for t in theirs]
        num_other_ids += int((ours[0] != theirs[0]).sum())
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            relative = max(relative, _relative(mine, other))
    return Difference(relative, num_other_ids)


def _relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
