"""Matrices of whole numbers: the layout is MatMulNBits', the errors are bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.compress.blocks import Quantized, dequantize, fit_grid, quantize, round_to
from partwise.compress.grids import TOLERANCE, find_grid
from partwise.errors import CompressionError, StoreError
from partwise.store.quantized import pack, unpack

CASES = st.tuples(
    st.sampled_from((4, 8)), st.sampled_from((16, 32, 64)), st.booleans(), st.integers(0, 999)
)


def random_matrix(seed: int, outputs: int = 24, inputs: int = 192) -> np.ndarray:
    """Blocks of very different scales, one of zeros, one constant."""
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(outputs, inputs)) * np.exp(generator.normal(size=(outputs, 1)))
    weight[1, :64], weight[2, :64] = 0, 0.75
    return weight.astype(np.float32)


def multiply_in_onnxruntime(quantized: Quantized, inputs: np.ndarray) -> np.ndarray:
    """A model of the one operator MatMulNBits, run by onnxruntime."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    outputs, width = quantized.shape
    arrays = {"B": quantized.packed, "scales": quantized.scales}
    if quantized.zero_points is not None:
        arrays["zero_points"] = quantized.zero_points
    node = helper.make_node(
        "MatMulNBits", ["A", *arrays], ["Y"], domain="com.microsoft", K=width, N=outputs,
        bits=quantized.bits, block_size=quantized.block,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("A", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: Any = session.run(None, {"A": inputs})[0]
    return np.asarray(result)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_onnxruntime_multiplies_by_what_dequantize_gives(
    bits: int, block: int, is_symmetric: bool
) -> None:
    weight = random_matrix(bits + block)
    inputs = np.random.default_rng(1).normal(size=(3, weight.shape[1])).astype(np.float32)
    quantized = quantize(weight, bits=bits, block=block, is_symmetric=is_symmetric)
    expected = inputs @ dequantize(quantized).T
    np.testing.assert_allclose(
        multiply_in_onnxruntime(quantized, inputs), expected, rtol=1e-5, atol=2e-4
    )


def test_onnxruntime_multiplies_by_zero_points_that_are_no_whole_numbers() -> None:
    weight = dequantised_q4_1(random_matrix(7))
    grid = find_grid(weight, bits=4, block=32)
    assert grid is not None
    quantized = round_to(weight, grid)
    assert quantized.zero_points is not None
    assert quantized.zero_points.dtype == np.float32
    inputs = np.random.default_rng(1).normal(size=(3, weight.shape[1])).astype(np.float32)
    np.testing.assert_allclose(
        multiply_in_onnxruntime(quantized, inputs), inputs @ weight.T, rtol=1e-5, atol=2e-4
    )


@settings(deadline=None, max_examples=40)
@given(CASES)
def test_no_weight_moves_further_than_its_grid_says(case: tuple[int, int, bool, int]) -> None:
    bits, block, is_symmetric, seed = case
    weight = random_matrix(seed)
    quantized = quantize(weight, bits=bits, block=block, is_symmetric=is_symmetric)
    steps = np.abs(quantized.scales)[..., None]
    # The symmetric grid has one number fewer on the side of the other sign.
    limit = steps * (1 if is_symmetric else 0.5) * 1.001 + 1e-6
    if not is_symmetric:
        limit = limit + steps * 0.5  # zero itself is rounded
    error = np.abs(dequantize(quantized) - weight).reshape(*quantized.scales.shape, block)
    assert (error <= limit).all()


@settings(deadline=None, max_examples=40)
@given(CASES)
def test_rounding_again_on_the_same_grid_changes_nothing(
    case: tuple[int, int, bool, int],
) -> None:
    bits, block, is_symmetric, seed = case
    once = quantize(random_matrix(seed), bits=bits, block=block, is_symmetric=is_symmetric)
    grid = fit_grid(random_matrix(seed), bits=bits, block=block, is_symmetric=is_symmetric)
    again = round_to(dequantize(once), grid)
    np.testing.assert_allclose(dequantize(again), dequantize(once), rtol=1e-5, atol=1e-6)


@given(st.integers(1, 40), st.sampled_from((4, 8)), st.integers(0, 99))
def test_numbers_survive_packing(count: int, bits: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 1 << bits, (3, count)).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack(numbers, bits), bits, count), numbers)


def test_the_first_of_two_numbers_lies_in_the_low_half() -> None:
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x21, 0x03]]


def test_rows_are_the_same_numbers() -> None:
    quantized = quantize(random_matrix(3), bits=4, block=32, is_symmetric=False)
    np.testing.assert_array_equal(dequantize(quantized.rows(5, 9)), dequantize(quantized)[5:9])


def dequantised_q4_1(weight: np.ndarray) -> np.ndarray:
    """What GGUF's Q4_1 makes of a matrix: ``d * q + m`` by blocks of 32, d and m in fp16."""
    blocks = weight.reshape(-1, 32)
    low = blocks.min(axis=1, keepdims=True).astype(np.float16).astype(np.float32)
    step = ((blocks.max(axis=1, keepdims=True) - low) / 15).astype(np.float16).astype(np.float32)
    numbers = np.clip(np.rint((blocks - low) / np.where(step > 0, step, 1)), 0, 15)
    return (numbers * step + low).astype(np.float32).reshape(weight.shape)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 999))
def test_a_matrix_dequantised_from_q4_1_is_encoded_again_without_loss(seed: int) -> None:
    weight = dequantised_q4_1(random_matrix(seed))
    grid = find_grid(weight, bits=4, block=32)
    assert grid is not None
    largest = np.abs(weight.reshape(-1, 32)).max(axis=1)
    error = np.abs(dequantize(round_to(weight, grid)) - weight).reshape(-1, 32).max(axis=1)
    assert (error <= 2 * TOLERANCE * largest).all()


def test_a_matrix_dequantised_from_q8_0_is_encoded_again_bit_for_bit() -> None:
    blocks = random_matrix(11).reshape(-1, 32)
    step = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    step[step == 0] = 1
    weight = (np.rint(blocks / step).clip(-127, 127) * step).astype(np.float32).reshape(24, 192)
    grid = find_grid(weight, bits=8, block=32)
    assert grid is not None
    np.testing.assert_array_equal(dequantize(round_to(weight, grid)), weight)


def test_a_matrix_that_was_never_quantised_lies_on_no_grid() -> None:
    assert find_grid(random_matrix(5), bits=4, block=32) is None
    assert find_grid(random_matrix(5), bits=8, block=32) is None


@pytest.mark.parametrize("block", [8, 48, 128, 0, -32])
def test_a_block_that_does_not_suit_is_named_with_those_that_do(block: int) -> None:
    weight = np.zeros((2, 576), np.float32)
    with pytest.raises(CompressionError, match=r"576 inputs .* give 16, 32, 64$"):
        quantize(weight, bits=4, block=block, is_symmetric=True)


def test_a_weight_that_is_not_finite_is_refused() -> None:
    weight = np.zeros((2, 32), np.float32)
    weight[0, 3] = np.nan
    with pytest.raises(CompressionError, match="NaN or infinite"):
        quantize(weight, bits=8, block=32, is_symmetric=True)


def test_arrays_that_contradict_each_other_are_refused() -> None:
    good = quantize(random_matrix(2), bits=4, block=32, is_symmetric=False)
    with pytest.raises(StoreError, match="expected 4 or 8 bits"):
        Quantized(
            packed=good.packed[:, :-1], scales=good.scales, zero_points=None, bits=4, block=32
        )
    with pytest.raises(StoreError, match="zero points are"):
        Quantized(
            packed=good.packed, scales=good.scales, zero_points=good.packed[0], bits=4, block=32
        )
