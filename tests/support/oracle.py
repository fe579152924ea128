"""The one-process model as the oracle: what transformers computes, compared with the parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from partwise.engine.sequence import Token

TOLERANCE = 1e-4
"""How far logits may be from transformers', and how close two of them are a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far generated tokens are from what the oracle says of the same prefix."""

    largest_gap: float
    wrong_ids: tuple[tuple[int, int], ...]  # (prompt, step), ties not counted

    def check(self) -> None:
        """Fail unless the parts computed what the oracle computes."""
        assert self.largest_gap <= TOLERANCE, f"logits differ by {self.largest_gap:g}"
        assert not self.wrong_ids, f"other ids at (prompt, step) {self.wrong_ids}"


def load_oracle(path: Path) -> Any:
    """The whole model as transformers runs it, fp32, eager attention."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    return network.eval()


@torch.inference_mode()
def oracle_logits(network: Any, prompt: Sequence[int], generated: Sequence[int]) -> np.ndarray:
    """The logits after which each of ``generated`` was picked, from one pass without a cache."""
    ids = torch.tensor([[*prompt, *generated[:-1]]])
    logits = network(ids, use_cache=False).logits
    return np.asarray(logits[0, len(prompt) - 1 :].numpy())


def compare(
    network: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Token]]
) -> Comparison:
    """Compare every step of every answer with the oracle on the same prefix.

    The oracle sees the tokens that the parts picked, so that a tie that fell the other way
    changes nothing after it.
    """
    largest_gap = 0.0
    wrong_ids = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        assert answer, f"prompt {number} got no token"
        expected = oracle_logits(network, prompt, [token.token_id for token in answer])
        for step, (token, logits) in enumerate(zip(answer, expected, strict=True)):
            assert token.logits is not None
            largest_gap = max(largest_gap, float(np.abs(token.logits - logits).max()))
            best, second = np.sort(logits)[:-3:-1]
            if token.token_id != int(logits.argmax()) and best - second > TOLERANCE:
                wrong_ids.append((number, step))
    return Comparison(largest_gap=largest_gap, wrong_ids=tuple(wrong_ids))


def random_prompts(*lengths: int, seed: int = 0, vocab_size: int = 380) -> list[list[int]]:
    """Seeded prompts of the given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocab_size, length).tolist() for length in lengths]
