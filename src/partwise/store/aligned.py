"""Arrays whose data begins at a multiple of 64 bytes.

Matrix kernels give other bits (and are slower) on operands that are not aligned to a cache
line; numpy promises 16 bytes only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

ALIGNMENT_BYTES = 64


def aligned_empty(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """A C-contiguous array of ``shape``, not initialised, its base aligned to 64 bytes."""
    element = np.dtype(dtype)
    num_bytes = math.prod(shape) * element.itemsize
    raw = np.empty(num_bytes + ALIGNMENT_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + num_bytes].view(element).reshape(tuple(shape))
