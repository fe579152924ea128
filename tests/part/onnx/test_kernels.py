"""What the probe measures of the onnx runner."""

from __future__ import annotations

import pytest

from partwise.distributor.workload import ELEMENT_BYTES
from partwise.part.kernels import load_kernels


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(8, 8), (64, 160)])
def test_products_at_every_precision_that_torch_lacks(
    precision: str, shape: tuple[int, int]
) -> None:
    torch_kernels, onnx_kernels = load_kernels()
    assert torch_kernels.precisions == ("fp32",)
    assert precision in onnx_kernels.precisions
    product = onnx_kernels.multiply(precision, shape, 3 * shape[0] * shape[1])
    assert product.num_matrices >= 3
    assert product.macs_per_token == product.num_matrices * shape[0] * shape[1]
    assert product.num_bytes == int(product.macs_per_token * ELEMENT_BYTES[precision])
    for tokens in (1, 4, 1):
        product.run(tokens)


def test_reading_is_long_enough_to_be_measured() -> None:
    _, onnx_kernels = load_kernels()
    reading = onnx_kernels.read(1 << 20)
    assert reading.num_bytes >= 16 << 20
    reading.run()
