"""What the comparison with transformers counts, on made-up logits."""

from __future__ import annotations

import numpy as np
import pytest

import partwise
from oracle import ONNX, bit_equal_parts, summarize
from oracle_comparison import BOUND, Comparison, Reference

LOGITS = np.array([[0, 5, 1], [3, 3 - BOUND / 2, 0], [0, 1, 4]], np.float32)
REFERENCE = Reference(ids=(1, 0, 2), logits=LOGITS)


def tokens(ids: list[int], logits: np.ndarray = LOGITS) -> list[partwise.Token]:
    return [partwise.Token(token_id=i, logits=row) for i, row in zip(ids, logits, strict=True)]


def compare(
    ids: list[int], logits: np.ndarray = LOGITS, *, parts: int = 1, mode: str = "batched"
) -> Comparison:
    comparison = Comparison(model="m", parts=parts, mode=mode)
    comparison.add(0, REFERENCE, tokens(ids, logits))
    return comparison


def test_the_same_logits_and_ids_are_within_bounds() -> None:
    comparison = compare([1, 0, 2])
    assert comparison.is_within_bounds
    assert (comparison.num_steps, comparison.max_abs_difference) == (3, 0.0)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_logit_beyond_the_bound_is_found_at_any_step(step: int) -> None:
    logits = LOGITS.copy()
    logits[step, 2] += 2 * BOUND
    assert not compare([1, 0, 2], logits).is_within_bounds


def test_a_logit_that_is_not_a_number_is_not_within_bounds() -> None:
    logits = LOGITS.copy()
    logits[1, 2] = np.nan
    comparison = compare([1, 0, 2], logits)
    assert not comparison.is_within_bounds
    assert not summarize([comparison])["max_abs_difference"] <= BOUND


def test_the_runners_have_bounds_of_their_own() -> None:
    logits = LOGITS.copy()
    logits[1, 2] += 5 * BOUND
    by_torch, by_onnx = compare([1, 0, 2]), compare([1, 0, 2], logits, mode=ONNX.name)
    assert not by_onnx.is_within_bounds, "it is judged by the bound that it was given"
    figures = summarize([by_torch, by_onnx])
    assert figures["max_abs_difference"] == 0.0
    assert figures["onnx_max_abs_difference"] == pytest.approx(5 * BOUND, rel=1e-3)
    assert ONNX.bound == 10 * BOUND


def test_another_id_is_wrong_unless_the_two_are_tied() -> None:
    assert not compare([0, 0, 2]).is_within_bounds
    tied = compare([1, 1, 0])
    assert tied.is_within_bounds
    (tie,) = tied.ties
    assert (tie.sequence, tie.step, tie.reference_id, tie.picked_id) == (0, 1, 0, 1)
    assert 0 < tie.gap <= BOUND


def test_a_sequence_is_compared_no_further_than_a_tie() -> None:
    logits = LOGITS.copy()
    logits[2] += 1
    comparison = compare([1, 1, 0], logits)
    assert comparison.is_within_bounds
    assert comparison.num_steps == 2


def test_a_sequence_that_ends_early_or_late_is_wrong() -> None:
    short = Comparison(model="m", parts=1, mode="batched")
    short.add(0, REFERENCE, tokens([1, 0], LOGITS[:2]))
    assert not short.is_within_bounds
    late = Comparison(model="m", parts=1, mode="batched")
    late.add(0, REFERENCE, tokens([1, 0, 2, 2], np.vstack([LOGITS, LOGITS[2:]])))
    assert not late.is_within_bounds


def test_nothing_compared_is_not_within_bounds() -> None:
    assert not Comparison(model="m", parts=1, mode="batched").is_within_bounds


def test_one_bit_makes_a_number_of_parts_unequal() -> None:
    logits = LOGITS.copy()
    logits[2, 0] = np.nextafter(np.float32(0), np.float32(1))
    mode = "deterministic"
    runs = [
        compare([1, 0, 2], parts=1, mode=mode),
        compare([1, 0, 2], logits, parts=2, mode=mode),
        compare([1, 0, 2], parts=3, mode=mode),
        compare([1, 0, 2], logits, parts=5),
    ]
    assert bit_equal_parts(runs) == [1, 3]
