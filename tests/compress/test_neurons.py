"""Which neurons stay, and what makes up for the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.compress.neurons import choose_kept, correct_down, rank_neurons, thin_out
from partwise.errors import CompressionError


def activations(seed: int, num_inputs: int = 32) -> np.ndarray:
    """Collinear ones, as neurons are, with some that are always zero."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(400, 12)) @ generator.normal(size=(12, num_inputs))
    inputs += 0.1 * generator.normal(size=inputs.shape)
    inputs[:, :2] = 0
    return inputs


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999))
def test_least_squares_leave_less_error_than_cutting(seed: int) -> None:
    inputs_NI = activations(seed)
    weight_OI = np.random.default_rng(seed + 1).normal(size=(8, 32)).astype(np.float32)
    moments_II = inputs_NI.T @ inputs_NI / len(inputs_NI)
    kept = choose_kept(rank_neurons(weight_OI, moments_II), 0.5, 1)
    whole = inputs_NI @ weight_OI.T
    cut = inputs_NI[:, kept] @ weight_OI[:, kept].T
    corrected = inputs_NI[:, kept] @ correct_down(weight_OI, moments_II, kept).T
    assert np.square(corrected - whole).sum() < 0.5 * np.square(cut - whole).sum()


def test_a_projection_that_loses_nothing_stays_as_it_is() -> None:
    inputs_NI = activations(3)
    weight_OI = np.random.default_rng(4).normal(size=(8, 32)).astype(np.float32)
    moments_II = inputs_NI.T @ inputs_NI
    np.testing.assert_allclose(
        correct_down(weight_OI, moments_II, np.arange(32)), weight_OI, rtol=1e-4, atol=1e-5
    )


def test_neurons_that_are_always_zero_or_lead_nowhere_go_first() -> None:
    inputs_NI = activations(5)
    weight_OI = np.random.default_rng(6).normal(size=(8, 32)).astype(np.float32)
    weight_OI[:, 7] = 0
    kept = choose_kept(rank_neurons(weight_OI, inputs_NI.T @ inputs_NI), 3 / 32, 1)
    assert sorted(set(range(32)) - set(kept.tolist())) == [0, 1, 7]


@given(st.integers(1, 300), st.floats(0, 0.9), st.sampled_from((1, 16, 32)))
def test_as_many_stay_as_were_asked_for_up_to_the_granule(
    num_neurons: int, sparsity: float, granule: int
) -> None:
    ranks = np.random.default_rng(0).random(num_neurons)
    wanted = max(1, round((1 - sparsity) * num_neurons))
    rounded = -(-wanted // granule) * granule
    if rounded > num_neurons:
        with pytest.raises(CompressionError, match="cannot be kept in blocks"):
            choose_kept(ranks, sparsity, granule)
        return
    kept = choose_kept(ranks, sparsity, granule)
    assert len(kept) == rounded
    assert (np.diff(kept) > 0).all()
    if rounded < num_neurons:
        assert ranks[kept].min() >= np.delete(ranks, kept).max()


def test_two_of_four_that_add_least_are_zero() -> None:
    weight_OI = np.array([[1, -4, 2, 3, 9, 1, 1, 8]], np.float32)
    plain = thin_out(weight_OI, np.eye(8))
    assert plain.tolist() == [[0, -4, 0, 3, 9, 0, 0, 8]]
    # An input that is seldom large counts less.
    scaled = thin_out(weight_OI, np.diag([400.0, 0.01, 1, 1, 1, 1, 1, 1]))
    assert scaled.tolist() == [[1, 0, 0, 3, 9, 0, 0, 8]]
    with pytest.raises(CompressionError, match="in fours"):
        thin_out(np.zeros((2, 6), np.float32), np.eye(6))
