"""Packing and unpacking by themselves, with a converter that the test turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from partwise.part.converter import BESIDE_BYTES
from partwise.part.packer import Packer, Way
from partwise.part.unpacker import Unpacker
from partwise.remote.codecs import Packed, make_codec, packed_bytes
from partwise.remote.counters import Traffic
from partwise.remote.frame import Frame, FrameKind

WIDTH = 64
LARGE, SMALL = BESIDE_BYTES // (4 * WIDTH), 1
"""Rows."""


class Hand:
    """A converter that does what it was given when it is told to."""

    def __init__(self) -> None:
        self.given: list[tuple[Callable[[], None], Callable[[], None]]] = []

    def start_then(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self.given.append((work, then))

    def turn(self) -> None:
        """Do the oldest."""
        work, then = self.given.pop(0)
        work()
        then()


class Hidden:
    """A timeline that notes what it is told was beside computing."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def hide(self, start_ns: int, stop_ns: int) -> None:
        self.spans.append((start_ns, stop_ns))


class Bench:
    """A packer, and what it sent."""

    def __init__(self, codec: str = "int8") -> None:
        self.sent: list[Frame] = []
        self.is_sent = True
        self.hand, self.hidden, self.traffic = Hand(), Hidden(), Traffic()
        way = Way(
            codec=codec,
            source="part0",
            target="part1",
            send=self.sent.append,
            is_sent=lambda: self.is_sent,
            fail=lambda exc: pytest.fail(str(exc)),
        )
        self.packer = Packer(way, self.hand, self.hidden, self.traffic)

    def push(self, step: int, num_rows: int, *, has_more: bool = True) -> None:
        self.packer.push(plain_frame(step, num_rows), has_more=has_more)

    @property
    def steps(self) -> list[int]:
        return [frame.step for frame in self.sent]


def plain_frame(step: int, num_rows: int) -> Frame:
    values = np.full((num_rows, WIDTH), step, np.float32)
    return Frame(kind=FrameKind.FORWARD, step=step, tensors=(values,))


def unpack(frame: Frame) -> np.ndarray:
    [packed] = frame.tensors
    values = np.empty(packed.shape, np.float32)
    make_codec(packed.codec).unpack(packed.data, values)
    return values


def test_a_large_frame_is_packed_beside_computing_only_if_there_is_more_to_compute() -> None:
    bench = Bench()
    bench.is_sent = False  # the link still holds all of them
    bench.push(1, LARGE, has_more=False)
    assert bench.steps == [1]
    bench.push(2, LARGE - 1)
    assert bench.steps == [1, 2]
    assert bench.traffic.beside_ns == 0
    bench.push(3, LARGE)
    assert bench.steps == [1, 2]
    bench.hand.turn()
    assert bench.steps == [1, 2, 3]
    [(start_ns, stop_ns)] = bench.hidden.spans
    assert bench.traffic.beside_ns == stop_ns - start_ns > 0
    assert bench.sent[2].sent_ns == start_ns  # it is under way since packing began
    assert all((unpack(frame) == frame.step).all() for frame in bench.sent)


def test_frames_stay_in_order_behind_one_that_is_being_packed() -> None:
    bench = Bench()
    bench.push(1, LARGE)
    bench.push(2, SMALL)
    bench.push(3, SMALL, has_more=False)
    assert bench.steps == []
    for _ in range(3):
        bench.hand.turn()
    assert bench.steps == [1, 2, 3]
    bench.push(4, SMALL)  # nothing is being packed any more
    assert bench.steps == [1, 2, 3, 4]


def test_buffers_are_used_again_only_when_the_link_has_sent_them() -> None:
    bench = Bench()
    bench.is_sent = False
    for step in range(1, 5):
        bench.push(step, SMALL)
    assert [unpack(frame)[0, 0] for frame in bench.sent] == [1, 2, 3, 4]
    bench.is_sent = True
    bench.push(5, SMALL)
    places = [frame.tensors[0].data.ctypes.data for frame in bench.sent]
    assert len(set(places[:4])) == 4
    assert places[4] in places[:4]


def test_a_link_that_is_never_done_leaves_no_buffers_behind() -> None:
    bench = Bench()
    bench.is_sent = False
    for step in range(50):
        bench.push(step, SMALL)
    assert len(bench.packer._sent) == 1


def test_what_goes_wrong_while_packing_beside_is_said_and_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, failed = Bench(), []
    monkeypatch.setattr(bench.packer, "_way", replace(bench.packer._way, fail=failed.append))

    def pack(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(bench.packer, "_codec", SimpleNamespace(pack=pack))
    bench.push(1, LARGE)
    bench.hand.turn()
    assert [type(error) for error in failed] == [MemoryError]
    assert not bench.sent


def test_fp32_goes_as_it_is() -> None:
    bench = Bench("fp32")
    frame = plain_frame(1, LARGE)
    bench.packer.push(frame, has_more=True)
    assert bench.sent == [frame]
    assert bench.traffic.plain_bytes == bench.traffic.moved_bytes == 4 * LARGE * WIDTH


class Thread:
    """A converter whose thread is late."""

    def __init__(self) -> None:
        self.num_started = 0
        self._executor = ThreadPoolExecutor(1)

    def start(self, work: Callable[[], None]) -> Future[None]:
        self.num_started += 1
        return self._executor.submit(lambda: (time.sleep(0.05), work())[1])

    def close(self) -> None:
        self._executor.shutdown()


@pytest.mark.parametrize("num_rows", [SMALL, LARGE])
def test_what_waits_for_its_turn_is_unpacked_meanwhile_and_opened_when_it_is_whole(
    num_rows: int,
) -> None:
    bench = Bench()
    bench.push(7, num_rows, has_more=False)
    frame = Frame(
        kind=FrameKind.FORWARD, tensors=bench.sent[0].tensors, lease=memoryview(bytearray(8))
    )
    thread, hidden, traffic = Thread(), Hidden(), Traffic()
    unpacker = Unpacker(thread, hidden, traffic)
    unpacker.expect(frame)
    assert thread.num_started == (num_rows == LARGE)
    [values] = unpacker.open(frame)
    assert (values == 7).all()
    assert (traffic.beside_ns > 0) == (num_rows == LARGE) == bool(hidden.spans)
    assert traffic.convert_ns > 0
    assert traffic.plain_bytes == values.nbytes
    assert traffic.moved_bytes == packed_bytes("int8", values.shape)
    unpacker.close(frame)
    again = Frame(kind=FrameKind.FORWARD, tensors=frame.tensors, lease=memoryview(bytearray(8)))
    [reused] = unpacker.open(again)
    assert reused.ctypes.data == values.ctypes.data
    thread.close()


def test_a_frame_that_is_dropped_while_it_is_unpacked_gives_no_buffer_away() -> None:
    bench = Bench()
    bench.push(7, LARGE, has_more=False)
    [packed] = bench.sent[0].tensors
    assert isinstance(packed, Packed)
    frames = [
        Frame(kind=FrameKind.FORWARD, tensors=(packed,), lease=memoryview(bytearray(8)))
        for _ in range(2)
    ]
    thread = Thread()
    unpacker = Unpacker(thread, Hidden(), Traffic())
    unpacker.expect(frames[0])
    unpacker.close(frames[0])  # it is still written to
    [values] = unpacker.open(frames[1])
    values[:] = 9
    thread.close()
    assert (values == 9).all()
