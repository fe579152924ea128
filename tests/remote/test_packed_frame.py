"""Frames whose tensors a codec packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.errors import FrameError
from partwise.remote.buffers import BufferPool
from partwise.remote.codecs import CODECS, Packed, make_codec, packed_bytes
from partwise.remote.frame import Frame, FrameKind, Row, decode_frame, encode_frame
from partwise.remote.layout import ALIGNMENT

NAMES = sorted(CODECS)


def pack(name: str, values: np.ndarray) -> Packed:
    data = np.empty(packed_bytes(name, values.shape), np.uint8)
    make_codec(name).pack(values, data)
    return Packed(name, values.shape, data)


def wire(*tensors) -> bytes:
    rows = (Row(1, 0, 2),)
    return b"".join(encode_frame(Frame(kind=FrameKind.FORWARD, rows=rows, tensors=tensors)).buffers)


def received(data: bytes) -> memoryview:
    buffer = BufferPool().take(len(data))[: len(data)]
    buffer[:] = data
    return buffer


@given(name=st.sampled_from(NAMES), num_rows=st.integers(0, 4), width=st.integers(1, 70))
def test_packed_tensors_travel_beside_plain_ones(name: str, num_rows: int, width: int) -> None:
    values = np.random.default_rng(num_rows).standard_normal((num_rows, width)).astype(np.float32)
    ids = np.arange(3)
    sent = pack(name, values)
    frame = decode_frame(received(wire(ids, sent, values)))
    plain_ids, packed, plain = frame.tensors
    assert (packed.codec, packed.shape, packed.dtype) == (name, values.shape, np.float32)
    assert packed.data.tobytes() == sent.data.tobytes()
    assert packed.data.ctypes.data % ALIGNMENT == 0 or not num_rows
    assert plain_ids.tolist() == [0, 1, 2]
    assert plain.tobytes() == values.tobytes()


def test_a_frame_of_an_unknown_codec_is_refused_with_its_name() -> None:
    data = wire(pack("int8", np.ones((2, 8), np.float32)))
    assert data.count(b"int8") == 1
    with pytest.raises(FrameError, match="the codec 'zstd' is not known here"):
        decode_frame(received(data.replace(b"int8", b"zstd")))
    with pytest.raises(FrameError, match="is packed, but its frame names no codec"):
        decode_frame(received(data.replace(b"int8", b"\0\0\0\0")))


def test_a_packed_tensor_must_have_as_many_bytes_as_its_codec_needs() -> None:
    data = wire(pack("int8", np.ones((2, 8), np.float32)))
    with pytest.raises(FrameError, match=r"shape \(2, 8\) in 72 bytes"):
        decode_frame(received(data.replace(b"int8", b"bf16")))


def test_a_frame_has_one_codec() -> None:
    values = np.ones((2, 8), np.float32)
    with pytest.raises(FrameError, match="one codec, not bf16, int8"):
        wire(pack("int8", values), pack("bf16", values))
    with pytest.raises(FrameError, match="the codec 'zip' is not known"):
        wire(Packed("zip", (2, 8), np.zeros(16, np.uint8)))


def test_only_float32_can_be_packed() -> None:
    data = bytearray(wire(pack("int8", np.ones((2, 8), np.float32))))
    at = 64 + 24  # the descriptor: dtype, then whether it is packed
    assert tuple(data[at : at + 2]) == (0, 1)
    data[at] = 1  # int64
    with pytest.raises(FrameError, match="tensor 0: dtype 1, packed 1"):
        decode_frame(received(bytes(data)))
