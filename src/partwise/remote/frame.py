"""One message between servers: a fixed header, a row table, tensors.

Layout, little-endian, every section starting at a multiple of 64 bytes so that a receiver
whose buffer is aligned can compute on the payloads in place:

    header (64) | rows (24 each) | tensor descriptors (40 each) | payload 0 | payload 1 | ...

Float tensors may be packed by a link's codec: the header names it, the descriptors say which.
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

from partwise.errors import FrameError
from partwise.remote.codecs import Packed
from partwise.remote.layout import (
    ALIGNMENT,
    DESCRIPTOR_BYTES,
    MAX_FRAME_BYTES,
    MAX_TENSORS,
    Array,
    Place,
    Spec,
    Tensor,
    lay_out,
    padding,
    read_table,
)

HEADER_BYTES = 64
MAX_ROWS = 1 << 16

_MAGIC = b"PWF1"
# magic, kind, flags, num_tensors, num_rows, plan_version, microbatch, step, attempt, layer,
# body_bytes, sent_ns, codec
_HEADER = struct.Struct("<4sBBHIIIQIIQQ8s4x")
_EXTENT = struct.Struct("<4s32xQ")  # of the header: magic and body_bytes
_ROW = struct.Struct("<QIIII")
assert _HEADER.size == HEADER_BYTES


class FrameKind(IntEnum):
    """What a frame carries. GRADIENT is reserved; PARTIAL_SUM goes between members of a stage."""

    FORWARD = 1
    GRADIENT = 2
    PARTIAL_SUM = 3
    RESULT = 4
    CONTROL = 5


_KINDS = {int(kind): kind for kind in FrameKind}
_CONTROL = FrameKind.CONTROL


class RowFlag(IntFlag):
    """What the last part returns for the last token of a row; PROMPT: its tokens are given,
    not generated; FOLLOWS: its one token is what is picked for the row before it of its
    sequence, which the last part tells the first."""

    NONE = 0
    PICK = 1
    LOGPROB = 2
    LOGITS = 4
    PROMPT = 8
    FOLLOWS = 16


class Row(msgspec.Struct, frozen=True, gc=False):
    """Consecutive tokens of one sequence: positions ``position : position + num_tokens``."""

    sequence: int
    position: int
    num_tokens: int
    flags: int = 0


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One message. A partial sum says in ``layer`` in which exchange of its step it is, and in
    ``attempt`` in which round of that. ``sent_ns`` is the sender's monotonic clock when its link
    encoded the frame, or when packing its tensors began.

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
    tensors: tuple[Tensor, ...] = ()
    message: bytes = b""
    lease: memoryview | None = None


class Encoded(msgspec.Struct, frozen=True):
    """A frame as the buffers to send one after the other."""

    is_control: bool
    num_bytes: int
    buffers: list[memoryview]


_PADS = [memoryview(bytes(n)) for n in range(ALIGNMENT)]


def encode_frame(frame: Frame) -> Encoded:
    """The frame as buffers, stamped with the time; its tensors are referred to, not copied.

    Raises:
        FrameError: a tensor of a dtype, rank or layout that frames do not carry, or too large.
    """
    if frame.kind is _CONTROL:
        return _encode_message(frame)
    rows, tensors = frame.rows, frame.tensors
    table_start = HEADER_BYTES + len(rows) * _ROW.size
    codec = ""
    specs: list[Spec] = []
    payloads: list[Array] = []
    for tensor in tensors:
        if isinstance(tensor, Packed):
            codec = codec or find_frame_codec(tensors)
            specs.append((tensor.dtype, tensor.shape, tensor.codec))
            payloads.append(tensor.data)
        else:
            specs.append((tensor.dtype, tensor.shape, ""))
            payloads.append(tensor)
    layout = lay_out(tuple(specs), table_start)
    head = bytearray(table_start) + layout.table
    head += _PADS[-len(head) % ALIGNMENT]
    cursor = HEADER_BYTES
    for row in rows:
        _ROW.pack_into(head, cursor, row.sequence, row.position, row.num_tokens, row.flags, 0)
        cursor += _ROW.size
    _HEADER.pack_into(
        head, 0, _MAGIC, frame.kind, 0, len(tensors), len(rows), frame.plan_version,
        frame.microbatch, frame.step, frame.attempt, frame.layer,
        layout.num_bytes - HEADER_BYTES, frame.sent_ns or time.monotonic_ns(), codec.encode(),
    )  # fmt: skip
    buffers = [memoryview(head)]
    for payload, pad in zip(payloads, layout.pads, strict=True):
        if not payload.flags.c_contiguous:
            raise FrameError(
                f"a tensor of shape {payload.shape} cannot travel: it is not contiguous"
            )
        if payload.size:
            buffers.append(memoryview(payload).cast("B"))  # type: ignore[arg-type]
        if pad:
            buffers.append(_PADS[pad])
    return Encoded(False, layout.num_bytes, buffers)


def find_frame_codec(tensors: Sequence[Tensor]) -> str:
    """The codec that packed some of ``tensors``; empty where none did.

    Raises:
        FrameError: several did: a frame names one.
    """
    names = {tensor.codec for tensor in tensors if type(tensor) is Packed}
    if len(names) > 1:
        raise FrameError(f"a frame has one codec, not {', '.join(sorted(names))}")
    return names.pop() if names else ""


def take_plain(frame: Frame) -> tuple[Array, ...]:
    """The tensors of a frame of which none may be packed.

    Raises:
        FrameError: one is.
    """
    plain = tuple([tensor for tensor in frame.tensors if type(tensor) is not Packed])
    if len(plain) < len(frame.tensors):
        raise FrameError(f"a {frame.kind.name} frame has packed tensors, it may have plain ones")
    return plain  # type: ignore[return-value]


def _encode_message(frame: Frame) -> Encoded:
    """A control frame: its num_rows holds the length of the message."""
    length = len(frame.message)
    body = frame.message + bytes(padding(length))
    header = _HEADER.pack(
        _MAGIC, frame.kind, 0, 0, length, frame.plan_version, frame.microbatch, frame.step,
        frame.attempt, frame.layer, len(body), time.monotonic_ns(), b"",
    )  # fmt: skip
    return Encoded(True, HEADER_BYTES + len(body), [memoryview(header + body)])


def frame_bytes(buffer: memoryview, start: int = 0) -> int:
    """Bytes of the whole frame whose header (at least 64 bytes of it) is at ``start``.

    Raises:
        FrameError: not a frame, or larger than MAX_FRAME_BYTES.
    """
    magic, body_bytes = _EXTENT.unpack_from(buffer, start)
    if magic != _MAGIC:
        raise FrameError(f"not a frame: it starts with {magic!r}, expected {_MAGIC!r}")
    if body_bytes > MAX_FRAME_BYTES - HEADER_BYTES:
        raise FrameError(f"a frame of {body_bytes} bytes exceeds {MAX_FRAME_BYTES}")
    total: int = HEADER_BYTES + body_bytes
    return total


def decode_frame(buffer: memoryview, lease: memoryview | None = None) -> Frame:
    """The frame that fills ``buffer`` exactly; its tensors are views of the buffer.

    Raises:
        FrameError: any field out of its bounds.
    """
    if len(buffer) < HEADER_BYTES:
        raise FrameError(f"{len(buffer)} bytes are too few for a frame")
    (
        magic, kind_code, _, num_tensors, num_rows, plan_version,
        microbatch, step, attempt, layer, body_bytes, sent_ns, codec,
    ) = _HEADER.unpack_from(buffer)  # fmt: skip
    if magic != _MAGIC or body_bytes != len(buffer) - HEADER_BYTES:
        raise FrameError(f"{len(buffer)} bytes do not hold the frame that they announce")
    kind = _KINDS.get(kind_code)
    if kind is None:
        raise FrameError(f"unknown kind of frame {kind_code}: is the peer a newer partwise?")
    rows: tuple[Row, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    message = b""
    if kind is _CONTROL:
        message = _unpack_message(buffer, num_rows)
    else:
        rows, cursor = _unpack_rows(buffer, num_rows)
        # Whether a codec is known is seen where it is used.
        name = codec.rstrip(b"\0").decode("ascii", "backslashreplace")
        tensors = _unpack_tensors(buffer, cursor, num_tensors, name)
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
    return tuple([Row(seq, pos, num, flags) for seq, pos, num, flags, _ in table]), stop


def _unpack_tensors(
    buffer: memoryview, cursor: int, num_tensors: int, codec: str
) -> tuple[Tensor, ...]:
    stop = cursor + num_tensors * DESCRIPTOR_BYTES
    if num_tensors > MAX_TENSORS or stop > len(buffer):
        raise FrameError(f"{num_tensors} tensors do not fit a frame of {len(buffer)} bytes")
    places = read_table(bytes(buffer[cursor:stop]), codec, len(buffer))
    return tuple([_view(buffer, place) for place in places])


def _view(buffer: memoryview, place: Place) -> Tensor:
    if place.codec:
        data = np.ndarray((place.num_bytes,), np.uint8, buffer, place.offset)
        return Packed(place.codec, place.shape, data)
    return np.ndarray(place.shape, place.dtype, buffer, place.offset)
