from __future__ import annotations

import numpy as np
import pytest

from partwise.store.aligned import ALIGNMENT_BYTES, aligned_empty


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (7, 0, 2), (33, 17)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_every_array_begins_at_a_multiple_of_64_bytes(
    shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    # Kept alive together: an allocator that happens to align one will not align them all.
    arrays = [aligned_empty(shape, dtype) for _ in range(50)]
    # numpy makes up an address for an array without elements.
    assert all(array.ctypes.data % ALIGNMENT_BYTES == 0 for array in arrays if array.size)
    assert all(array.shape == shape and array.dtype == dtype for array in arrays)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in arrays)
