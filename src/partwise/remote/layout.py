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
from partwise.remote.codecs import Packed, packed_bytes

ALIGNMENT = 64
MAX_FRAME_BYTES = 1 << 30
MAX_TENSORS = 64
MAX_DIMS = 4
DESCRIPTOR_BYTES = 40

# dtype, whether the frame's codec packed it, num_dims, 4 sizes, offset from the start of the
# frame, bytes
_DESCRIPTOR = struct.Struct("<BBH4IQQ4x")
_DTYPES = (np.dtype("<f4"), np.dtype("<i8"), np.dtype("<f2"), np.dtype("<u2"), np.dtype("<i1"))
_DTYPE_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_MAX_KEPT = 1024

Dtype = np.dtype[np.generic]
Array = npt.NDArray[np.generic]
Tensor = Array | Packed
Spec = tuple[Dtype, tuple[int, ...], str]
"""Dtype, shape, and the codec that packed it, if any."""


class Layout(NamedTuple):
    """The frame that carries tensors of some dtypes and shapes.

    ``table`` are their descriptors; the payload of tensor i is followed by ``pads[i]`` zero
    bytes; the frame ends at ``num_bytes``.
    """

    table: bytes
    pads: tuple[int, ...]
    num_bytes: int


class Place(NamedTuple):
    """One tensor in a received frame; ``codec`` packed it, if any."""

    dtype: Dtype
    shape: tuple[int, ...]
    codec: str
    offset: int
    num_bytes: int


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
    for dtype, shape, codec in specs:
        code = _DTYPE_CODES.get(dtype)
        if code is None or len(shape) > MAX_DIMS:
            raise FrameError(
                f"a tensor of dtype {dtype} and shape {shape} cannot travel: frames carry"
                f" {', '.join(map(str, _DTYPES))} of at most {MAX_DIMS} dimensions"
            )
        num_bytes = _count_bytes(dtype, shape, codec)
        sizes = (*shape, *(0,) * (MAX_DIMS - len(shape)))
        if end + num_bytes > MAX_FRAME_BYTES:
            raise FrameError(
                f"a frame of {end + num_bytes} bytes exceeds {MAX_FRAME_BYTES}: use smaller chunks"
            )
        table += _DESCRIPTOR.pack(code, bool(codec), len(shape), *sizes, end, num_bytes)
        pads.append(padding(num_bytes))
        end += num_bytes + pads[-1]
    return Layout(table, tuple(pads), end)


def _count_bytes(dtype: Dtype, shape: tuple[int, ...], codec: str) -> int:
    return packed_bytes(codec, shape) if codec else math.prod(shape) * dtype.itemsize


@lru_cache(_MAX_KEPT)
def read_table(table: bytes, codec: str, frame_bytes: int) -> tuple[Place, ...]:
    """The tensors that the descriptors in ``table`` place in a frame of ``frame_bytes``;
    ``codec`` packed those that say so.

    Raises:
        FrameError: any field out of its bounds.
    """
    return tuple(
        _read_descriptor(index, fields, codec, frame_bytes)
        for index, fields in enumerate(_DESCRIPTOR.iter_unpack(table))
    )


def _read_descriptor(index: int, fields: tuple[int, ...], codec: str, frame_bytes: int) -> Place:
    code, is_packed, num_dims, *sizes, offset, num_bytes = fields
    if code >= len(_DTYPES) or is_packed > 1 or num_dims > MAX_DIMS or (is_packed and code):
        raise FrameError(f"tensor {index}: dtype {code}, packed {is_packed}, {num_dims} dimensions")
    dtype, shape = _DTYPES[code], tuple(sizes[:num_dims])
    if is_packed and not codec:
        raise FrameError(f"tensor {index} is packed, but its frame names no codec")
    used = codec if is_packed else ""
    is_inside = offset % ALIGNMENT == 0 and offset + num_bytes <= frame_bytes
    if _count_bytes(dtype, shape, used) != num_bytes or not is_inside:
        raise FrameError(
            f"a tensor of shape {shape} in {num_bytes} bytes at {offset} of {frame_bytes}"
        )
    try:
        np.empty(0, dtype).reshape(shape) if not num_bytes else None
    except ValueError as exc:  # empty, yet of sizes that no array may have
        raise FrameError(f"a tensor of shape {shape}: {exc}") from exc
    return Place(dtype, shape, used, offset, num_bytes)
