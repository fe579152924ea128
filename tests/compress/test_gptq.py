"""GPTQ and searched scales: less error than rounding to nearest, where it counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.compress.blocks import dequantize, fit_grid, quantize, round_to
from partwise.compress.gptq import quantize_calibrated
from partwise.compress.scales import search_grid
from partwise.errors import CompressionError

CASES = st.tuples(st.integers(0, 999), st.sampled_from((4, 8)), st.booleans())


def problem(seed: int, num_inputs: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, and correlated inputs of it, one of them always zero."""
    generator = np.random.default_rng(seed)
    weight_OI = generator.standard_t(4, size=(16, num_inputs)).astype(np.float32)
    inputs_NI = generator.normal(size=(500, 40)) @ generator.normal(size=(40, num_inputs))
    inputs_NI += 0.3 * generator.normal(size=inputs_NI.shape)
    inputs_NI[:, 5] = 0
    return weight_OI, inputs_NI


def output_error(weight: np.ndarray, other: np.ndarray, inputs_NI: np.ndarray) -> float:
    return float(np.square(inputs_NI @ (weight - other).T).sum())


@settings(deadline=None, max_examples=15)
@given(CASES)
def test_calibration_leaves_less_error_in_the_outputs(case: tuple[int, int, bool]) -> None:
    seed, bits, is_symmetric = case
    weight_OI, inputs_NI = problem(seed)
    moments_II = inputs_NI.T @ inputs_NI / len(inputs_NI)
    options = {"bits": bits, "block": 32, "is_symmetric": is_symmetric}
    nearest = dequantize(quantize(weight_OI, **options))
    calibrated = dequantize(quantize_calibrated(weight_OI, moments_II, **options))
    error = output_error(weight_OI, calibrated, inputs_NI)
    assert error < 0.5 * output_error(weight_OI, nearest, inputs_NI)
    # It pays with the weights themselves.
    assert np.square(calibrated - weight_OI).sum() > 0


def test_inputs_that_do_not_correlate_are_rounded_to_nearest() -> None:
    weight_OI, _ = problem(1)
    calibrated = quantize_calibrated(
        weight_OI, np.eye(weight_OI.shape[1]), bits=4, block=32, is_symmetric=True
    )
    grid = search_grid(weight_OI, bits=4, block=32, is_symmetric=True)
    np.testing.assert_array_equal(dequantize(calibrated), dequantize(round_to(weight_OI, grid)))


@settings(deadline=None, max_examples=15)
@given(CASES)
def test_searched_scales_never_leave_more_error(case: tuple[int, int, bool]) -> None:
    seed, bits, is_symmetric = case
    weight_OI, _ = problem(seed)
    grids = [
        fit(weight_OI, bits=bits, block=32, is_symmetric=is_symmetric)
        for fit in (fit_grid, search_grid)
    ]
    plain, searched = (
        np.square(dequantize(round_to(weight_OI, grid)) - weight_OI).reshape(-1, 32).sum(axis=1)
        for grid in grids
    )
    assert (searched <= plain * 1.0001 + 1e-9).all()
    assert searched.sum() < plain.sum()


def test_a_block_wider_than_a_chunk_works_and_one_that_does_not_divide_is_refused() -> None:
    weight_OI, inputs_NI = problem(2, num_inputs=512)
    moments_II = inputs_NI.T @ inputs_NI
    wide = quantize_calibrated(weight_OI, moments_II, bits=8, block=256, is_symmetric=True)
    assert output_error(weight_OI, dequantize(wide), inputs_NI) < 0.01 * float(
        np.square(inputs_NI @ weight_OI.T).sum()
    )
    with pytest.raises(CompressionError, match="of 384 does not suit the 512 inputs"):
        quantize_calibrated(weight_OI, moments_II, bits=8, block=384, is_symmetric=True)


def test_errors_are_made_up_for_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_OI, inputs_NI = problem(3)
    moments_II = inputs_NI.T @ inputs_NI / len(inputs_NI)
    errors = []
    for chunk in (32, 192):  # six chunks, or all in one
        monkeypatch.setattr("partwise.compress.gptq.CHUNK_INPUTS", chunk)
        done = quantize_calibrated(weight_OI, moments_II, bits=4, block=32, is_symmetric=True)
        errors.append(output_error(weight_OI, dequantize(done), inputs_NI))
    assert errors[0] == pytest.approx(errors[1], rel=0.02)
