from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from partwise.errors import FrameError
from partwise.remote.buffers import BufferPool
from partwise.remote.frame import (
    ALIGNMENT,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Frame,
    FrameKind,
    Row,
    decode_frame,
    encode_frame,
    frame_bytes,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
ROWS = st.lists(st.builds(Row, U64, U32, U32, U32), max_size=5).map(tuple)
DTYPES = st.sampled_from(["<f4", "<i8", "<f2", "<u2", "<i1"])
TENSORS = st.lists(
    DTYPES.flatmap(
        lambda dtype: st_np.arrays(
            dtype, st_np.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
        )
    ),
    max_size=4,
).map(tuple)
DATA_KINDS = st.sampled_from([kind for kind in FrameKind if kind is not FrameKind.CONTROL])
NUMBERS = {"plan_version": U32, "microbatch": U32, "step": U64, "attempt": U32, "layer": U32}
DATA_FRAMES = st.builds(Frame, kind=DATA_KINDS, rows=ROWS, tensors=TENSORS, **NUMBERS)
CONTROL_FRAMES = st.builds(
    Frame, kind=st.just(FrameKind.CONTROL), message=st.binary(max_size=300), **NUMBERS
)
FRAMES = DATA_FRAMES | CONTROL_FRAMES


def wire(frame: Frame) -> bytes:
    return b"".join(encode_frame(frame).buffers)


def received(data: bytes) -> memoryview:
    """``data`` in an aligned buffer, as a link receives it."""
    buffer = BufferPool().take(len(data))[: len(data)]
    buffer[:] = data
    return buffer


@given(frame=FRAMES)
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    encoded = encode_frame(frame)
    data = b"".join(encoded.buffers)
    back = decode_frame(received(data))

    assert len(data) == encoded.num_bytes == frame_bytes(memoryview(data))
    assert encoded.is_control == (frame.kind is FrameKind.CONTROL)
    assert (back.kind, back.rows, back.message) == (frame.kind, frame.rows, frame.message)
    assert [getattr(back, n) for n in NUMBERS] == [getattr(frame, n) for n in NUMBERS]
    assert back.sent_ns > 0
    assert len(back.tensors) == len(frame.tensors)
    for got, sent in zip(back.tensors, frame.tensors, strict=True):
        assert (got.dtype, got.shape, got.tobytes()) == (sent.dtype, sent.shape, sent.tobytes())


@given(frame=DATA_FRAMES)
def test_payloads_lie_at_multiples_of_64_bytes_in_an_aligned_buffer(frame: Frame) -> None:
    buffer = received(wire(frame))
    tensors = [tensor for tensor in decode_frame(buffer).tensors if tensor.nbytes]
    assert all(tensor.ctypes.data % ALIGNMENT == 0 for tensor in tensors)
    base = np.frombuffer(buffer, np.uint8).ctypes.data
    assert all(base <= tensor.ctypes.data for tensor in tensors), "a tensor was copied"


def decodes_or_refuses(data: bytes) -> None:
    try:
        frame = decode_frame(received(data))
    except FrameError:
        return
    assert sum(tensor.nbytes for tensor in frame.tensors) <= 64 * len(data)
    wire(frame)  # what was accepted is a frame


@given(frame=FRAMES, data=st.data())
def test_a_truncated_frame_is_refused(frame: Frame, data: st.DataObject) -> None:
    whole = wire(frame)
    stop = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(FrameError):
        decode_frame(received(whole[:stop]) if stop else memoryview(b""))


@given(frame=FRAMES, data=st.data())
@settings(max_examples=300)
def test_flipped_bits_are_refused_or_give_a_valid_frame(frame: Frame, data: st.DataObject) -> None:
    whole = bytearray(wire(frame))
    # Most of the bits that matter lie in front of the payloads.
    front = min(len(whole), HEADER_BYTES + 24 * len(frame.rows) + 40 * len(frame.tensors))
    for bit in data.draw(st.lists(st.integers(0, 8 * front - 1), min_size=1, max_size=8)):
        whole[bit // 8] ^= 1 << bit % 8
    decodes_or_refuses(bytes(whole))


def tensor_frame(*, dtype: int = 0, ndim: int = 1, sizes: tuple[int, ...], at: int, size: int):
    """A frame of one tensor whose descriptor says just what it is told to."""
    sizes = (*sizes, *(0,) * (4 - len(sizes)))
    body = struct.pack("<BBH4IQQ4x", dtype, 0, ndim, *sizes, at, size).ljust(128, b"\0")
    header = struct.pack("<4sBBHIIIQIIQQ12x", b"PWF1", 1, 0, 1, 0, 0, 0, 0, 0, 0, len(body), 0)
    return header + body


@given(
    dtype=st.integers(0, 6),
    ndim=st.integers(0, 6),
    sizes=st.lists(st.sampled_from([0, 1, 2, 4, 16, 2**16, 2**31, 2**32 - 1]), max_size=4),
    at=st.sampled_from([0, 1, 64, 128, 192, 256, 2**40, 2**64 - 64]),
    size=st.sampled_from([0, 1, 4, 16, 64, 2**33, 2**64 - 1]),
)
@example(dtype=0, ndim=4, sizes=[0, 2**32 - 1, 2**32 - 1, 2**32 - 1], at=128, size=0)
@example(dtype=0, ndim=0, sizes=[], at=192, size=4)
@settings(max_examples=300)
def test_any_tensor_descriptor_is_refused_or_gives_a_view_of_the_buffer(
    dtype: int, ndim: int, sizes: list[int], at: int, size: int
) -> None:
    decodes_or_refuses(tensor_frame(dtype=dtype, ndim=ndim, sizes=tuple(sizes), at=at, size=size))


@pytest.mark.parametrize("at", [160, 64 * 4])
def test_a_payload_off_its_alignment_or_beyond_the_frame_is_refused(at: int) -> None:
    assert decode_frame(received(tensor_frame(sizes=(4,), at=128, size=16))).tensors[0].shape == (
        4,
    )
    with pytest.raises(FrameError, match=f"16 bytes at {at}"):
        decode_frame(received(tensor_frame(sizes=(4,), at=at, size=16)))


@given(header=st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES + 64))
def test_random_bytes_are_not_a_frame(header: bytes) -> None:
    with pytest.raises(FrameError):
        frame_bytes(memoryview(header))


def test_a_frame_that_announces_more_than_the_limit_is_refused() -> None:
    header = bytearray(wire(Frame(kind=FrameKind.FORWARD)))
    struct.pack_into("<Q", header, 36, MAX_FRAME_BYTES)
    with pytest.raises(FrameError, match=str(MAX_FRAME_BYTES)):
        frame_bytes(memoryview(header))


@pytest.mark.parametrize(
    "tensor",
    [np.zeros(3, np.float64), np.zeros((1,) * 5, np.float32), np.zeros((4, 4), np.float32).T[:2]],
    ids=["dtype", "rank", "not contiguous"],
)
def test_a_tensor_that_cannot_travel_is_refused_before_it_leaves(tensor: np.ndarray) -> None:
    with pytest.raises(FrameError, match="cannot travel"):
        encode_frame(Frame(kind=FrameKind.FORWARD, tensors=(tensor,)))
