from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.errors import FrameError, LinkClosed, RemoteError
from partwise.remote import link as link_module
from partwise.remote.channel import MemoryChannel
from partwise.remote.frame import Frame, FrameKind, encode_frame
from partwise.remote.link import CHUNK_BYTES, Link
from support.links import Pair, control_frame, data_frame, is_whole

SIZES = st.one_of(
    st.integers(0, 300),
    st.sampled_from([16 << 10, (16 << 10) - 136, CHUNK_BYTES, CHUNK_BYTES + 1]),
    st.integers(0, 2 * CHUNK_BYTES),
)
SENDINGS = st.lists(st.tuples(st.booleans(), SIZES), max_size=8)  # (is it control, bytes)
CHUNK = struct.Struct("<IBBH")


def make(number: int, is_control: bool, num_bytes: int) -> Frame:
    return (control_frame if is_control else data_frame)(number, num_bytes)


@given(
    left=SENDINGS,
    right=SENDINGS,
    seed=st.integers(0, 2**32),
    capacity=st.sampled_from([7000, 100_000, 1 << 20]),
)
@settings(max_examples=40, deadline=None)
def test_frames_arrive_whole_and_in_order_per_lane_in_both_directions(
    left: list, right: list, seed: int, capacity: int
) -> None:
    pair = Pair(capacity=capacity, seed=seed)
    for link, sendings in ((pair.left, left), (pair.right, right)):
        for number, sending in enumerate(sendings):
            link.send(make(number, *sending))
    received = pair.received
    pair.pump(lambda: len(received["right"]) == len(left) and len(received["left"]) == len(right))

    for sendings, frames in ((left, received["right"]), (right, received["left"])):
        for is_control in (True, False):
            numbers = [i for i, sending in enumerate(sendings) if sending[0] == is_control]
            lane = [f for f in frames if (f.kind is FrameKind.CONTROL) == is_control]
            assert [frame.step for frame in lane] == numbers
            for number, frame in zip(numbers, lane, strict=True):
                expected = make(number, *sendings[number])
                assert frame.message == expected.message
                assert is_control or is_whole(frame, sendings[number][1])
    assert not pair.left.has_output
    assert not pair.right.has_output
    pair.close()


@pytest.mark.parametrize("seed", [None, 5])
def test_a_control_frame_overtakes_a_large_data_frame(seed: int | None) -> None:
    pair = Pair(capacity=64 << 10, seed=seed)
    pair.left.send(data_frame(1, 8 << 20))
    pair.turn()
    assert not pair.received["right"]
    pair.left.send(control_frame(2, 100))
    pair.pump(lambda: bool(pair.received["right"]))

    assert pair.received["right"][0].kind is FrameKind.CONTROL
    assert pair.left.sent_bytes < 3 * CHUNK_BYTES, "it waited for more than the chunk under way"
    pair.pump(lambda: len(pair.received["right"]) == 2)
    assert is_whole(pair.received["right"][1], 8 << 20)
    pair.close()


@given(
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=30),
    seed=st.integers(0, 2**32),
    lag=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_a_sender_never_has_more_than_the_window_and_a_frame_unreleased(
    sizes: list[int], seed: int, lag: int
) -> None:
    window = 50_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_module, "WINDOW_BYTES", window)
        pair = Pair(seed=seed)
        frames = [data_frame(i, size) for i, size in enumerate(sizes)]
        bytes_of = [encode_frame(frame).num_bytes for frame in frames]
        for frame in frames:
            pair.left.send(frame)
        num_released = 0
        while num_released < len(frames):
            # The receiver takes all it can get before it releases anything.
            pair.settle()
            received = pair.received["right"]
            unreleased = sum(bytes_of[num_released : len(received)])
            assert unreleased < window + max(bytes_of)
            assert len(received) > num_released, "no credit came back: a deadlock"
            stop = max(num_released + 1, len(received) - lag)
            for frame in received[num_released:stop]:
                assert is_whole(frame, sizes[frame.step])
                pair.right.release(frame)
            num_released = stop
        assert not pair.left.has_output
        pair.close()


def test_a_sender_without_credit_sends_control_frames_but_no_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "WINDOW_BYTES", 10_000)
    pair = Pair()
    for number in range(4):
        pair.left.send(data_frame(number, 6000))
    pair.settle()
    assert [frame.step for frame in pair.received["right"]] == [0, 1]
    assert pair.left.has_output
    assert not pair.left.wants_write, "a poller would spin"
    pair.left.send(control_frame(9, 10))
    pair.settle()
    assert pair.received["right"][-1].kind is FrameKind.CONTROL
    for frame in pair.received["right"][:2]:
        pair.right.release(frame)
    pair.settle()
    assert [frame.step for frame in pair.received["right"][3:]] == [2, 3]
    pair.close()


def test_frames_that_came_before_the_other_side_closed_are_not_lost() -> None:
    for seed in (None, *range(30)):
        pair = Pair(seed=seed)
        for number in range(3):
            pair.left.send(data_frame(number, 40_000))
        while pair.left.has_output:
            pair.left.flush()
        pair.left.close()
        frames: list[Frame] = []

        def drain(link: Link = pair.right, frames: list[Frame] = frames) -> None:
            for _ in range(1000):
                frames.extend(link.receive())

        with pytest.raises(LinkClosed):
            drain()
        assert [frame.step for frame in frames] == [0, 1, 2], f"seed {seed}"
        pair.right.close()


def test_a_full_queue_is_an_error_that_names_the_other_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "MAX_QUEUED_FRAMES", 8)
    pair = Pair(capacity=1000)

    def fill() -> None:
        for number in range(20):
            pair.left.send(data_frame(number, 2000))

    with pytest.raises(RemoteError, match="8 frames wait for right"):
        fill()
    pair.close()


def feed(data: bytes) -> list[Frame]:
    """What a link makes of ``data``; it must not take more than this to say so."""
    raw, channel = MemoryChannel.pair(capacity=1 << 22)
    link = Link(channel, "a stranger")
    raw.send([memoryview(data)])
    frames: list[Frame] = []
    try:
        for _ in range(len(data) // (16 << 10) + 3):
            frames.extend(link.receive())
    finally:
        raw.close()
        link.close()
    return frames


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (CHUNK.pack(64, 3, 0, 0), "lane 3"),
        (CHUNK.pack(0, 1, 0, 0), "0 bytes"),
        (CHUNK.pack(CHUNK_BYTES + 1, 1, 0, 0), "chunk"),
        (CHUNK.pack(5, 2, 0, 0), "released 5 bytes"),
        (CHUNK.pack(64, 1, 0, 0) + b"x" * 64, "not a frame"),
        (b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n", "chunk"),
    ],
)
def test_garbage_is_a_frame_error(data: bytes, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        feed(data)


def test_bytes_beyond_the_end_of_a_frame_are_a_frame_error() -> None:
    data = b"".join(encode_frame(data_frame(1, 64)).buffers)
    for extra in (1, 64, 20_000):
        with pytest.raises(FrameError, match="more bytes than its frame holds"):
            feed(CHUNK.pack(len(data) + extra, 1, 0, 0) + data + bytes(extra))


@pytest.mark.parametrize("lane", [0, 1])
def test_a_frame_on_the_wrong_lane_is_a_frame_error(lane: int) -> None:
    # Data on the control lane would be computed on in a buffer that is already reused;
    # control on the data lane would take credit that nobody gives back.
    frame = data_frame(1, 64) if lane == 0 else control_frame(1, 64)
    data = b"".join(encode_frame(frame).buffers)
    with pytest.raises(FrameError, match="lane"):
        feed(CHUNK.pack(len(data), lane, 0, 0) + data)


@given(data=st.binary(max_size=400))
def test_random_bytes_never_crash_a_link(data: bytes) -> None:
    with contextlib.suppress(FrameError):
        assert not feed(data)


@given(flips=st.lists(st.integers(0, 8 * 300 - 1), min_size=1, max_size=6), cut=st.integers(1, 200))
@settings(max_examples=200)
def test_flipped_bits_of_a_stream_never_crash_a_link(flips: list[int], cut: int) -> None:
    data = b"".join(encode_frame(data_frame(1, 100)).buffers)
    stream = bytearray()
    for start in range(0, len(data), cut):
        stream += CHUNK.pack(len(data[start : start + cut]), 1, 0, 0) + data[start : start + cut]
    for bit in flips:
        stream[bit // 8 % len(stream)] ^= 1 << bit % 8
    with contextlib.suppress(FrameError):
        feed(bytes(stream))


@given(cuts=st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_a_frame_may_come_in_chunks_of_any_size(cuts: list[int]) -> None:
    data = b"".join(encode_frame(data_frame(3, 1000)).buffers)
    stream, start = bytearray(), 0
    while start < len(data):
        length = min(cuts[start % len(cuts)], len(data) - start)
        stream += CHUNK.pack(length, 1, 0, 0) + data[start : start + length]
        start += length
    (frame,) = feed(bytes(stream))
    assert is_whole(frame, 1000)


def test_releasing_to_a_side_that_went_away_is_no_error() -> None:
    pair = Pair(capacity=1 << 26)
    for number in range(3):
        pair.left.send(data_frame(number, 8 << 20))
    pair.pump(lambda: len(pair.received["right"]) == 3)
    pair.left.close()
    for frame in pair.received["right"]:
        pair.right.release(frame)
    with pytest.raises(LinkClosed):
        pair.right.receive()
    pair.right.close()
