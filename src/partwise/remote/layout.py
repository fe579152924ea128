"""Where the tensors of a frame lie in it, and the table that says so.

Frames of one pass after another have the same shapes, so a layout is worked out once and
kept; only rows and payloads change.
"""

from __future__ import annotations

import math
import struct
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from partwise.errors import FrameError

ALIGNMENT = 64
MAX_FRAME_BYTES = 1 << 30
MAX_TENSORS = 64
MAX_DIMS = 4
DESCRIPTOR_BYTES = 40

# dtype, codec, num_dims, 4 sizes, offset from the start of the frame, bytes
_DESCRIPTOR = struct.Struct("<BBH4IQQ4x")
_DTYPES = (np.dtype("<f4"), np.dtype("<i8"), np.dtype("<f2"), np.dtype("<u2"), np.dtype("<i1"))
_DTYPE_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_MAX_KEPT = 1024

Dtype = np.dtype[np.generic]
Array = npt.NDArray[np.generic]
Spec = tuple[Dtype, tuple[int, ...]]


class Layout(NamedTuple):
    """The frame that carries tensors of some dtypes and shapes.

    ``table`` are their descriptors; the payload of tensor i is followed by ``pads[i]`` zero
    bytes; the frame ends at ``num_bytes``.
    """

    table: bytes
    pads: tuple[int, ...]
    num_bytes: int


class Place(NamedTuple):
    """One tensor in a received frame."""

    dtype: Dtype
    shape: tuple[int, ...]
    offset: int


def padding(num_bytes: int) -> int:
    """Bytes from ``num_bytes`` to the next multiple of ALIGNMENT."""
    return -num_bytes % ALIGNMENT


@lru_cache(_MAX_KEPT)
def lay_out(specs: tuple[Spec, ...], table_start: int) -> Layout:
    """The layout of tensors whose table starts at ``table_start``; payloads follow it.

    Raises:
        FrameError: a dtype or rank that frames do not carry, or too large.
    """
    end = table_start + len(specs) * DESCRIPTOR_BYTES
    end += padding(end)
    table = b""
    pads = []
    for dtype, shape in specs:
        code = _DTYPE_CODES.get(dtype)
        if code is None or len(shape) > MAX_DIMS:
            raise FrameError(
                f"a tensor of dtype {dtype} and shape {shape} cannot travel: frames carry"
                f" {', '.join(map(str, _DTYPES))} of at most {MAX_DIMS} dimensions"
            )
        num_bytes = math.prod(shape) * dtype.itemsize
        sizes = (*shape, *(0,) * (MAX_DIMS - len(shape)))
        if end + num_bytes > MAX_FRAME_BYTES:
            raise FrameError(
                f"a frame of {end + num_bytes} bytes exceeds {MAX_FRAME_BYTES}: use smaller chunks"
            )
        table += _DESCRIPTOR.pack(code, 0, len(shape), *sizes, end, num_bytes)
        pads.append(padding(num_bytes))
        end += num_bytes + pads[-1]
    return Layout(table, tuple(pads), end)


@lru_cache(_MAX_KEPT)
def read_table(table: bytes, frame_bytes: int) -> tuple[Place, ...]:
    """The tensors that the descriptors in ``table`` place in a frame of ``frame_bytes``.

    Raises:
        FrameError: any field out of its bounds.
    """
    return tuple(
        _read_descriptor(index, fields, frame_bytes)
        for index, fields in enumerate(_DESCRIPTOR.iter_unpack(table))
    )


def _read_descriptor(index: int, fields: tuple[int, ...], frame_bytes: int) -> Place:
    code, codec, num_dims, *sizes, offset, num_bytes = fields
    if code >= len(_DTYPES) or codec != 0 or num_dims > MAX_DIMS:
        raise FrameError(f"tensor {index}: dtype {code}, codec {codec}, {num_dims} dimensions")
    dtype, shape = _DTYPES[code], tuple(sizes[:num_dims])
    is_inside = offset % ALIGNMENT == 0 and offset + num_bytes <= frame_bytes
    if math.prod(shape) * dtype.itemsize != num_bytes or not is_inside:
        raise FrameError(
            f"a tensor of shape {shape} in {num_bytes} bytes at {offset} of {frame_bytes}"
        )
    try:
        np.empty(0, dtype).reshape(shape) if not num_bytes else None
    except ValueError as exc:  # empty, yet of sizes that no array may have
        raise FrameError(f"a tensor of shape {shape}: {exc}") from exc
    return Place(dtype, shape, offset)
