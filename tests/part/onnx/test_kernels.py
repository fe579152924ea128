"""What the probe measures of the onnx runner."""

from __future__ import annotations

import time

import pytest

from partwise.distributor.workload import ELEMENT_BYTES
from partwise.part.onnx.kernels import KERNELS


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(8, 8), (64, 160)])
def test_products_at_every_precision_that_torch_lacks(
    precision: str, shape: tuple[int, int]
) -> None:
    assert precision in KERNELS.precisions
    product = KERNELS.multiply(precision, shape, 3 * shape[0] * shape[1])
    assert product.num_matrices >= 3
    assert product.macs_per_token == product.num_matrices * shape[0] * shape[1]
    assert product.num_bytes == int(product.macs_per_token * ELEMENT_BYTES[precision])
    for tokens in (1, 4, 1):
        product.run(tokens)


def test_reading_is_long_enough_to_be_measured() -> None:
    reading = KERNELS.read(1 << 20)
    assert reading.num_bytes >= 16 << 20
    reading.run()


def test_each_matrix_is_read_by_itself() -> None:
    product = KERNELS.multiply("int8", (1024, 1024), 64 << 20)
    product.run(1)
    start_s = time.perf_counter()
    product.run(1)
    # Were one matrix computed for all, the others would cost nothing.
    assert product.num_bytes / (time.perf_counter() - start_s) < 100e9
