"""Tensors of torch as arrays that frames carry, and back: their elements as they lie in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from partwise.capture.graph import TensorSpec
from partwise.errors import FrameError
from partwise.remote.layout import Array
from partwise.store import aligned_empty

if TYPE_CHECKING:
    import torch

_CARRIED = {"float32": np.float32, "int64": np.int64, "float16": np.float16}
"""What frames carry as numbers; elements of other dtypes travel as bytes."""


def to_wire(tensor: torch.Tensor, order: tuple[int, ...]) -> Array:
    """The elements of ``tensor`` in the order of its memory (``order`` as in `TensorSpec`), as one
    row. It shares the tensor's memory where that lies so already."""
    import torch

    flat = tensor.detach().permute(order).contiguous().reshape(-1)
    if str(tensor.dtype).removeprefix("torch.") not in _CARRIED:
        flat = flat.view(torch.int8)
    array: Array = flat.numpy()
    return array


def from_wire(array: Array, sizes: tuple[int, ...], spec: TensorSpec) -> torch.Tensor:
    """The tensor of ``sizes``, laid out as ``spec`` says, whose elements came as ``array``; they
    are copied.

    Raises:
        FrameError: another dtype or number of elements than it has.
    """
    import torch

    dtype = getattr(torch, spec.dtype)
    stored = tuple(sizes[axis] for axis in spec.order)
    num_elements = math.prod(stored)
    carried = np.dtype(_CARRIED.get(spec.dtype, np.int8))
    width = 1 if spec.dtype in _CARRIED else dtype.itemsize
    if array.dtype != carried or array.shape != (num_elements * width,):
        raise FrameError(
            f"{array.size} elements of {array.dtype} came, expected are {num_elements} of"
            f" {spec.dtype}: do all parts run the same partwise?"
        )
    held = aligned_empty(array.shape, carried)
    np.copyto(held, array)
    tensor = torch.from_numpy(held).view(dtype).reshape(stored)
    return tensor.permute(*(spec.order.index(axis) for axis in range(len(sizes))))
