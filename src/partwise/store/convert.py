"""Stored elements as fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STORED_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
"""How numpy sees the bytes of each dtype; it has no BF16, which is the upper half of an fp32."""

ELEMENTS = STORED_DTYPES | {"U8": "|u1"}
"""With the numbers of quantised matrices, which are never read as fp32 by themselves."""


FP32_MAX = float(np.finfo(np.float32).max)


def convert_into(target: NDArray[Any], raw: NDArray[Any], dtype: str) -> None:
    """Write ``raw``, elements of stored ``dtype`` as `ELEMENTS` shows them, to ``target``: fp32,
    or for U8 bytes.

    Raises:
        FloatingPointError: an F64 element is finite but beyond fp32.
    """
    if dtype == "BF16":
        np.left_shift(raw, 16, out=target.view(np.uint32), dtype=np.uint32)
        return
    with np.errstate(over="raise"):
        np.copyto(target, raw, casting="same_kind")
