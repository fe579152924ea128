"""The one-process model as the oracle: what transformers computes, compared with the parts.

The comparison and its bounds are those of bench/oracle.py; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oracle_cases import generate, load_network
from oracle_comparison import Comparison, Reference
from support.parts import Parts, Setting

Prompt = Sequence[int]


class Oracle:
    """The models of transformers and what they generate, each loaded and computed once."""

    def __init__(self) -> None:
        self._networks: dict[Path, Any] = {}
        self._references: dict[tuple[Path, tuple[int, ...], int], Reference] = {}

    def references(self, path: Path, prompts: Sequence[Prompt], num_tokens: int) -> list[Reference]:
        """What transformers generates for each prompt by itself."""
        return [self._reference(path, tuple(prompt), num_tokens) for prompt in prompts]

    def compare(
        self, path: Path, prompts: Sequence[Prompt], num_tokens: int, setting: Setting
    ) -> Comparison:
        """Run all prompts at once on parts, and compare every step."""
        references = self.references(path, prompts, num_tokens)
        comparison = Comparison(model=path.name, parts=setting.num_parts, mode="batched")
        with Parts(path, setting) as parts:
            comparison.add_all(references, parts.generate(prompts, num_tokens))
        return comparison

    def _reference(self, path: Path, prompt: tuple[int, ...], num_tokens: int) -> Reference:
        if path not in self._networks:
            self._networks[path] = load_network(path)
        key = (path, prompt, num_tokens)
        if key not in self._references:
            self._references[key] = generate(self._networks[path], prompt, num_tokens)
        return self._references[key]


def random_prompts(*lengths: int, seed: int = 0, vocab_size: int = 380) -> list[list[int]]:
    """Seeded prompts of the given lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, vocab_size, length).tolist() for length in lengths]
