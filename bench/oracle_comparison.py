"""The one comparison of generated tokens with those of transformers.

`oracle.py` judges the figures by it, and tests/scenarios/test_mutations.py proves that it fails
when a model is broken. It compares the logits of each step, and the ids; where another id was
picked among tied logits, that is listed and the rest of the sequence is not compared, for it
follows another prefix. It runs no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

import partwise

Logits = npt.NDArray[np.float32]

BOUND = 1e-4
"""Largest difference of a logit, and the gap within which two logits count as tied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What transformers generated for one prompt: T ids and their logits, (T, V)."""

    ids: tuple[int, ...]
    logits: Logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """Where another id was picked because the reference's two best logits are tied."""

    sequence: int
    step: int
    reference_id: int
    picked_id: int
    gap: float


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What one run of all prompts differs in: no logit by more than ``bound``. ``digests`` are of
    each sequence's logits."""

    model: str
    parts: int
    mode: str
    bound: float = BOUND
    max_abs_difference: float = 0.0
    num_steps: int = 0
    num_wrong_ids: int = 0
    ties: list[Tie] = field(default_factory=list)
    digests: list[str] = field(default_factory=list, repr=False)

    @property
    def is_within_bounds(self) -> bool:
        # NaN is not within any bound.
        return (
            self.max_abs_difference <= self.bound and not self.num_wrong_ids and self.num_steps > 0
        )

    def add_all(
        self, references: Sequence[Reference], answers: Sequence[Iterable[partwise.Token]]
    ) -> None:
        """Compare the answer to each prompt with the reference for it."""
        for number, (reference, answer) in enumerate(zip(references, answers, strict=True)):
            self.add(number, reference, answer)

    def add(self, number: int, reference: Reference, tokens: Iterable[partwise.Token]) -> None:
        """Compare sequence ``number`` up to its first other id."""
        digest = hashlib.sha256()
        is_same, step = True, -1
        for step, token in enumerate(tokens):
            assert token.logits is not None
            digest.update(token.logits.tobytes())
            if is_same and step < len(reference.ids):
                is_same = self._add_step(number, step, reference, token)
        if is_same and step + 1 != len(reference.ids):
            self.num_wrong_ids += 1
        self.digests.append(digest.hexdigest())

    def _add_step(
        self, number: int, step: int, reference: Reference, token: partwise.Token
    ) -> bool:
        """Compare one step; whether it picked the reference's id."""
        expected_V, expected_id = reference.logits[step], reference.ids[step]
        difference = np.abs(token.logits - expected_V).max()
        self.max_abs_difference = float(np.maximum(self.max_abs_difference, difference))
        self.num_steps += 1
        if token.token_id == expected_id:
            return True
        gap = float(expected_V[expected_id] - expected_V[token.token_id])
        if gap <= self.bound:
            tie = Tie(
                sequence=number, step=step, reference_id=expected_id,
                picked_id=token.token_id, gap=gap,
            )  # fmt: skip
            self.ties.append(tie)
        else:
            self.num_wrong_ids += 1
        return False
