"""One message between servers: a fixed header, a row table, tensors.

Layout, little-endian, every section starting at a multiple of 64 bytes so that a receiver
whose buffer is aligned can compute on the payloads in place:

    header (64) | rows (24 each) | tensor descriptors (40 each) | payload 0 | payload 1 | ...

A frame of kind CONTROL carries one encoded message (see `messages.py`) instead of rows and
tensors. Frames are idempotent: a part knows which (sequence, position) it has computed, so
that a duplicate is dropped; one of a stale plan_version is refused.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from enum import IntEnum, IntFlag

import msgspec
import numpy as np
import numpy.typing as npt

from partwise.errors import FrameError

ALIGNMENT = 64
HEADER_BYTES = 64
MAX_FRAME_BYTES = 1 << 30
MAX_ROWS = 1 << 16
MAX_TENSORS = 64
MAX_DIMS = 4

_MAGIC = b"PWF1"
# magic, kind, flags, num_tensors, num_rows, plan_version, microbatch, step, attempt, layer,
# body_bytes, sent_ns
_HEADER = struct.Struct("<4sBBHIIIQIIQQ12x")
_ROW = struct.Struct("<QIIII")
# dtype, codec, num_dims, 4 sizes, offset from the start of the frame, bytes
_TENSOR = struct.Struct("<BBH4IQQ4x")
assert _HEADER.size == HEADER_BYTES

_DTYPES = (np.dtype("<f4"), np.dtype("<i8"), np.dtype("<f2"), np.dtype("<u2"), np.dtype("<i1"))
_DTYPE_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}

Array = npt.NDArray[np.generic]


class FrameKind(IntEnum):
    """What a frame carries. GRADIENT and PARTIAL_SUM are reserved."""

    FORWARD = 1
    GRADIENT = 2
    PARTIAL_SUM = 3
    RESULT = 4
    CONTROL = 5


_KINDS = {int(kind): kind for kind in FrameKind}


class RowFlag(IntFlag):
    """What the last part returns for the last token of a row."""

    NONE = 0
    PICK = 1
    LOGPROB = 2
    LOGITS = 4


class Row(msgspec.Struct, frozen=True, gc=False):
    """Consecutive tokens of one sequence: positions ``position : position + num_tokens``."""

    sequence: int
    position: int
    num_tokens: int
    flags: int = 0


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One message. ``layer`` is reserved for frames inside a layer; ``sent_ns`` is the
    sender's monotonic clock when its link encoded the frame.

    Tensors of a received frame are views of ``lease``, a buffer of its link: they are valid
    until the frame is released to that link. A frame to be sent has no lease.
    """

    kind: FrameKind
    plan_version: int = 0
    microbatch: int = 0
    step: int = 0
    attempt: int = 0
    layer: int = 0
    sent_ns: int = 0
    rows: tuple[Row, ...] = ()
    tensors: tuple[Array, ...] = ()
    message: bytes = b""
    lease: memoryview | None = None


class Encoded(msgspec.Struct, frozen=True):
    """A frame as the buffers to send one after the other."""

    is_control: bool
    num_bytes: int
    buffers: list[memoryview]


def _padding(num_bytes: int) -> int:
    return -num_bytes % ALIGNMENT


_PADS = [memoryview(bytes(n)) for n in range(ALIGNMENT)]


def encode_frame(frame: Frame) -> Encoded:
    """The frame as buffers, stamped with the time; its tensors are referred to, not copied.

    Raises:
        FrameError: a tensor of a dtype or rank that frames do not carry, or too large.
    """
    rows, tensors = frame.rows, frame.tensors
    table_bytes = len(rows) * _ROW.size + len(tensors) * _TENSOR.size + len(frame.message)
    head = bytearray(HEADER_BYTES + table_bytes + _padding(table_bytes))
    cursor = HEADER_BYTES
    for row in rows:
        _ROW.pack_into(head, cursor, row.sequence, row.position, row.num_tokens, row.flags, 0)
        cursor += _ROW.size
    buffers = [memoryview(head)]
    end = len(head)
    for tensor in tensors:
        _pack_tensor(head, cursor, tensor, end)
        cursor += _TENSOR.size
        if not tensor.nbytes:
            continue
        buffers.append(memoryview(tensor).cast("B"))  # type: ignore[arg-type]
        end += tensor.nbytes
        if pad := _padding(end):
            buffers.append(_PADS[pad])
            end += pad
    if frame.message:
        head[cursor : cursor + len(frame.message)] = frame.message
    if end > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {end} bytes exceeds {MAX_FRAME_BYTES}: use smaller chunks")
    # A control frame's table is its message: num_rows holds the length.
    num_rows = len(frame.message) if frame.kind is FrameKind.CONTROL else len(rows)
    _HEADER.pack_into(
        head, 0, _MAGIC, frame.kind, 0, len(tensors), num_rows, frame.plan_version,
        frame.microbatch, frame.step, frame.attempt, frame.layer, end - HEADER_BYTES,
        time.monotonic_ns(),
    )  # fmt: skip
    return Encoded(frame.kind is FrameKind.CONTROL, end, buffers)


def _pack_tensor(head: bytearray, cursor: int, tensor: Array, offset: int) -> None:
    code = _DTYPE_CODES.get(tensor.dtype)
    if code is None or tensor.ndim > MAX_DIMS or not tensor.flags.c_contiguous:
        raise FrameError(
            f"a tensor of dtype {tensor.dtype} and shape {tensor.shape} cannot travel: frames carry"
            f" contiguous {', '.join(map(str, _DTYPES))} of at most {MAX_DIMS} dimensions"
        )
    sizes = (*tensor.shape, *(0,) * (MAX_DIMS - tensor.ndim))
    _TENSOR.pack_into(head, cursor, code, 0, tensor.ndim, *sizes, offset, tensor.nbytes)


def frame_bytes(header: memoryview) -> int:
    """Bytes of the whole frame that starts with ``header`` (at least 64 bytes of it).

    Raises:
        FrameError: not a frame, or larger than MAX_FRAME_BYTES.
    """
    body_bytes: int = _HEADER.unpack_from(header)[10]
    if header[:4] != _MAGIC:
        raise FrameError(f"not a frame: it starts with {bytes(header[:4])!r}, expected {_MAGIC!r}")
    if body_bytes > MAX_FRAME_BYTES - HEADER_BYTES:
        raise FrameError(f"a frame of {body_bytes} bytes exceeds {MAX_FRAME_BYTES}")
    return HEADER_BYTES + body_bytes


def decode_frame(buffer: memoryview, lease: memoryview | None = None) -> Frame:
    """The frame that fills ``buffer`` exactly; its tensors are views of the buffer.

    Raises:
        FrameError: any field out of its bounds.
    """
    if len(buffer) < HEADER_BYTES:
        raise FrameError(f"{len(buffer)} bytes are too few for a frame")
    (
        magic, kind_code, _, num_tensors, num_rows, plan_version,
        microbatch, step, attempt, layer, body_bytes, sent_ns,
    ) = _HEADER.unpack_from(buffer)  # fmt: skip
    if magic != _MAGIC or body_bytes != len(buffer) - HEADER_BYTES:
        raise FrameError(f"{len(buffer)} bytes do not hold the frame that they announce")
    try:
        kind = FrameKind(kind_code)
    except ValueError as exc:
        raise FrameError(
            f"unknown kind of frame {kind_code}: is the peer a newer partwise?"
        ) from exc
    rows: tuple[Row, ...] = ()
    tensors: tuple[Array, ...] = ()
    message = b""
    if kind is FrameKind.CONTROL:
        message = _unpack_message(buffer, num_rows)
    else:
        rows, cursor = _unpack_rows(buffer, num_rows)
        tensors = _unpack_tensors(buffer, cursor, num_tensors)
    return Frame(
        kind=kind, plan_version=plan_version, microbatch=microbatch, step=step, attempt=attempt,
        layer=layer, sent_ns=sent_ns, rows=rows, tensors=tensors, message=message,
        lease=lease,
    )  # fmt: skip


def _unpack_message(buffer: memoryview, num_bytes: int) -> bytes:
    if HEADER_BYTES + num_bytes > len(buffer):
        raise FrameError(f"a message of {num_bytes} bytes in a frame of {len(buffer)}")
    return bytes(buffer[HEADER_BYTES : HEADER_BYTES + num_bytes])


def _unpack_rows(buffer: memoryview, num_rows: int) -> tuple[tuple[Row, ...], int]:
    stop = HEADER_BYTES + num_rows * _ROW.size
    if num_rows > MAX_ROWS or stop > len(buffer):
        raise FrameError(f"{num_rows} rows do not fit a frame of {len(buffer)} bytes")
    table = _ROW.iter_unpack(buffer[HEADER_BYTES:stop])
    return tuple(Row(seq, pos, num, flags) for seq, pos, num, flags, _ in table), stop


def _unpack_tensors(buffer: memoryview, cursor: int, num_tensors: int) -> tuple[Array, ...]:
    if num_tensors > MAX_TENSORS or cursor + num_tensors * _TENSOR.size > len(buffer):
        raise FrameError(f"{num_tensors} tensors do not fit a frame of {len(buffer)} bytes")
    tensors = []
    for i in range(num_tensors):
        code, codec, ndim, *sizes, offset, num_bytes = _TENSOR.unpack_from(
            buffer, cursor + i * _TENSOR.size
        )
        if code >= len(_DTYPES) or codec != 0 or ndim > MAX_DIMS:
            raise FrameError(f"tensor {i}: dtype {code}, codec {codec}, {ndim} dimensions")
        shape = tuple(sizes[:ndim])
        tensors.append(_view(buffer, _DTYPES[code], shape, offset, num_bytes))
    return tuple(tensors)


def _view(
    buffer: memoryview, dtype: np.dtype[np.generic], shape: Sequence[int], offset: int, size: int
) -> Array:
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != size or offset % ALIGNMENT or offset + size > len(buffer):
        raise FrameError(
            f"a tensor of shape {tuple(shape)} in {size} bytes at {offset} of {len(buffer)}"
        )
    try:
        return np.ndarray(shape, dtype, buffer, offset)
    except ValueError as exc:  # empty, yet of sizes that no array may have
        raise FrameError(f"a tensor of shape {tuple(shape)}: {exc}") from exc
