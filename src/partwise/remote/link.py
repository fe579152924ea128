"""A link: frames in both directions over one channel, without ever blocking.

Frames travel in chunks, so that control frames overtake data between two chunks of a large
frame. Data frames need credit: a sender may have WINDOW_BYTES of unconsumed frames at the
other side (a frame that starts within the window may end beyond it), and the receiver gives
credit back as frames are released. What waits for credit is queued, at most
MAX_QUEUED_FRAMES.

On the wire a chunk is: length u32, lane u8, flags u8, reserved u16, then ``length`` bytes
of one frame. A credit chunk has no bytes: its length is the number of bytes released.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections import deque

from partwise.errors import FrameError, LinkClosed, RemoteError
from partwise.remote.buffers import BufferPool
from partwise.remote.channel import Channel
from partwise.remote.frame import (
    HEADER_BYTES,
    Encoded,
    Frame,
    FrameKind,
    decode_frame,
    encode_frame,
    frame_bytes,
)

CHUNK_BYTES = 512 << 10
WINDOW_BYTES = 64 << 20
MAX_QUEUED_FRAMES = 1024
SCRATCH_BYTES = 16 << 10
MAX_CONTROL_BYTES = 64 << 20

_CHUNK = struct.Struct("<IBBH")
_CONTROL, _DATA, _CREDIT = 0, 1, 2
_MAX_BUFFERS = 512  # a sendmsg takes at most IOV_MAX (1024) of them


def _chunk_header(length: int, lane: int) -> memoryview:
    return memoryview(_CHUNK.pack(length, lane, 0, 0))


class _Outgoing:
    """A frame being sent: the buffers and bytes that are still to go."""

    __slots__ = ("buffers", "lane", "remaining", "total")

    def __init__(self, encoded: Encoded, lane: int) -> None:
        self.lane = lane
        self.buffers = deque(encoded.buffers)
        self.remaining = self.total = encoded.num_bytes

    def take_chunk(self) -> list[memoryview]:
        """The next chunk: its header and at most CHUNK_BYTES of the frame."""
        length = min(self.remaining, CHUNK_BYTES)
        chunk = [_chunk_header(length, self.lane)]
        self.remaining -= length
        if not self.remaining:
            chunk.extend(self.buffers)
            return chunk
        while length:
            buffer = self.buffers.popleft()
            if len(buffer) > length:
                self.buffers.appendleft(buffer[length:])
                buffer = buffer[:length]
            chunk.append(buffer)
            length -= len(buffer)
        return chunk


class _Incoming:
    """A frame being received on one lane: first its header, then all of it."""

    __slots__ = ("buffer", "header", "position", "total")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.header = b""
        self.position = 0
        self.total = 0
        self.buffer: memoryview = memoryview(b"")


class Link:
    """Frames over a channel. One thread owns it; nothing here blocks.

    ``name`` says who is at the other side; ``has_output`` whether anything waits to be sent;
    ``sent_bytes`` counts all that went on the wire; while `wants_write` is true,
    ``last_progress_s`` is when bytes last went, or since when they might (monotonic seconds).
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self.name = name
        self.channel = channel
        self.sent_bytes = 0
        self.last_progress_s = time.monotonic()
        self._pool = BufferPool()
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._scratch_start = self._scratch_stop = 0
        self._lanes = (_Incoming(), _Incoming())
        self._lane = _CONTROL
        self._chunk_remaining = 0
        self._queues: tuple[deque[_Outgoing], deque[_Outgoing]] = (deque(), deque())
        self._sending: list[memoryview] = []  # one chunk, as far as it is not sent
        self._sending_bytes = 0
        self._unreleased_bytes = 0  # sent by us, not yet released by the other side
        self._credit_owed_bytes = 0  # released by us, not yet told
        self._held_bytes = 0  # received, not yet released by us
        self.has_output = False

    # Sending

    def send(self, frame: Frame) -> int:
        """Queue ``frame`` and send what can be sent now; how many bytes it has. Its tensors
        must not change until `has_output` is false.

        Raises:
            FrameError: the frame cannot travel.
            LinkClosed: the other side went away.
            RemoteError: the queue is full: the other side takes nothing any more.
        """
        encoded = encode_frame(frame)
        lane = _CONTROL if encoded.is_control else _DATA
        is_short = encoded.num_bytes <= CHUNK_BYTES and self._unreleased_bytes < WINDOW_BYTES
        if self.has_output or not is_short:
            self._enqueue(encoded, lane)
        else:  # nothing waits and one chunk is enough: no need to queue it
            num_bytes = encoded.num_bytes
            self._sending = [memoryview(_CHUNK.pack(num_bytes, lane, 0, 0)), *encoded.buffers]
            self._sending_bytes = _CHUNK.size + num_bytes
            if lane == _DATA:
                self._unreleased_bytes += num_bytes
            self._write()
            if self._sending:
                self.last_progress_s = time.monotonic()
                self.has_output = True
        return encoded.num_bytes

    def _enqueue(self, encoded: Encoded, lane: int) -> None:
        queue = self._queues[lane]
        if len(queue) >= MAX_QUEUED_FRAMES:
            raise RemoteError(
                f"{len(queue)} frames wait for {self.name}, the limit: it takes nothing any more"
            )
        self._note_start()
        queue.append(_Outgoing(encoded, lane))
        self.flush()

    def _note_start(self) -> None:
        """Called before bytes may go again: what waits for credit does not count as stalled."""
        if not self.wants_write:
            self.last_progress_s = time.monotonic()

    @property
    def wants_write(self) -> bool:
        """Whether `flush` could go on as soon as the channel takes bytes."""
        return self.has_output and bool(self._sending or self._next())

    def _next(self) -> deque[_Outgoing] | None:
        """The queue whose first frame may put its next chunk on the wire."""
        if self._queues[_CONTROL]:
            return self._queues[_CONTROL]
        data = self._queues[_DATA]
        if data and (data[0].remaining < data[0].total or self._unreleased_bytes < WINDOW_BYTES):
            return data
        return None

    def flush(self) -> None:
        """Send until nothing is left, the channel is full, or credit is missing."""
        while (self._sending or self._fill()) and self._write():
            pass
        self.has_output = bool(self._sending or self._queues[_CONTROL] or self._queues[_DATA])

    def _fill(self) -> bool:
        """Start the next chunk, if one may go."""
        if self._credit_owed_bytes * 4 >= WINDOW_BYTES:
            self._start_chunk([_chunk_header(self._credit_owed_bytes, _CREDIT)])
            self._credit_owed_bytes = 0
            return True
        queue = self._next()
        if queue is None:
            return False
        outgoing = queue[0]
        if outgoing.lane == _DATA and outgoing.remaining == outgoing.total:
            self._unreleased_bytes += outgoing.total
        self._start_chunk(outgoing.take_chunk())
        if not outgoing.remaining:
            queue.popleft()
        return True

    def _start_chunk(self, chunk: list[memoryview]) -> None:
        self._sending = chunk
        self._sending_bytes = sum(map(len, chunk))

    def _write(self) -> bool:
        """Send what has been started; whether anything went."""
        sending = self._sending
        count = self.channel.send(
            sending if len(sending) <= _MAX_BUFFERS else sending[:_MAX_BUFFERS]
        )
        self.sent_bytes += count
        self._sending_bytes -= count
        if count and self.has_output:
            self.last_progress_s = time.monotonic()
        if not self._sending_bytes:
            self._sending = []
            return True
        if count:
            self._drop_sent(count)
        return bool(count)

    def _drop_sent(self, count: int) -> None:
        sending = self._sending
        for i, buffer in enumerate(sending):
            if count < len(buffer):
                sending[i] = buffer[count:]
                del sending[:i]
                return
            count -= len(buffer)

    # Receiving

    def receive(self) -> list[Frame]:
        """Read what the channel has; the frames that are complete, in order.

        Raises:
            LinkClosed: the other side went away.
            FrameError: the other side sent something that is not a frame.
        """
        frames: list[Frame] = []
        try:
            while self._read(frames):
                pass
        except LinkClosed:
            if not frames:
                raise
            # They came first, and may say why it closed: the next call raises again.
        return frames

    def _read(self, frames: list[Frame]) -> bool:
        """One read from the channel; whether another may give more."""
        incoming = self._lanes[self._lane]
        if self._chunk_remaining >= SCRATCH_BYTES and incoming.total:
            stop = incoming.position + self._chunk_remaining
            wanted = incoming.buffer[incoming.position : stop]
            count = self.channel.receive_into(wanted)
            if count:
                self._advance(incoming, count, frames)
            return count == len(wanted)
        count = self.channel.receive_into(self._scratch[self._scratch_stop :])
        self._scratch_stop += count
        is_full = self._scratch_stop == SCRATCH_BYTES
        self._parse(frames)
        return is_full

    def _parse(self, frames: list[Frame]) -> None:
        """Take chunks out of the scratch buffer."""
        scratch, start, stop = self._scratch, self._scratch_start, self._scratch_stop
        while start < stop:
            if not self._chunk_remaining:
                if stop - start < _CHUNK.size:
                    break
                length, lane, _, _ = _CHUNK.unpack_from(scratch, start)
                start += _CHUNK.size
                end = start + length
                if end <= stop and self._is_whole(scratch, start, length, lane):
                    buffer = self._pool.take(length)
                    buffer[:length] = scratch[start:end]
                    self._deliver(buffer, length, lane, frames)
                    start = end
                else:
                    self._begin_chunk(length, lane)
                continue
            count = min(stop - start, self._chunk_remaining)
            self._take(scratch[start : start + count], frames)
            start += count
        if start == stop:
            start = stop = 0
        elif stop == SCRATCH_BYTES:
            rest = bytes(scratch[start:stop])
            start, stop = 0, len(rest)
            scratch[:stop] = rest
        self._scratch_start, self._scratch_stop = start, stop

    def _is_whole(self, scratch: memoryview, start: int, length: int, lane: int) -> bool:
        """Whether the chunk at ``start`` is one whole frame: most are, and go a short way."""
        if lane > _DATA or not HEADER_BYTES <= length <= CHUNK_BYTES:
            return False
        return not self._lanes[lane].position and frame_bytes(scratch, start) == length

    def _deliver(self, buffer: memoryview, total: int, lane: int, frames: list[Frame]) -> None:
        if lane == _CONTROL:
            frame = decode_frame(buffer[:total])
            self._pool.give(buffer)
        else:
            if self._held_bytes >= WINDOW_BYTES:
                raise FrameError(f"{self.name} sent {total} bytes without credit")
            self._held_bytes += total
            frame = decode_frame(buffer[:total], lease=buffer)
        if (frame.kind is FrameKind.CONTROL) != (lane == _CONTROL):
            raise FrameError(f"{self.name} sent a {frame.kind.name} frame on lane {lane}")
        frames.append(frame)

    def _begin_chunk(self, length: int, lane: int) -> None:
        if lane == _CREDIT:
            self._note_start()
            self._unreleased_bytes -= length
            if self._unreleased_bytes < 0:
                raise FrameError(f"{self.name} released {length} bytes that it never got")
        elif lane > _DATA or not 0 < length <= CHUNK_BYTES:
            raise FrameError(f"{self.name} sent a chunk of {length} bytes on lane {lane}")
        else:
            self._lane, self._chunk_remaining = lane, length

    def _take(self, data: memoryview, frames: list[Frame]) -> None:
        """Bytes of the current chunk, at the place in their frame."""
        incoming = self._lanes[self._lane]
        if not incoming.total:
            data = self._take_header(incoming, data)
            if not incoming.total:
                return
        stop = incoming.position + len(data)
        if stop > incoming.total:
            raise FrameError(f"{self.name} sent more bytes than its frame holds")
        incoming.buffer[incoming.position : stop] = data
        self._advance(incoming, len(data), frames)

    def _take_header(self, incoming: _Incoming, data: memoryview) -> memoryview:
        """Learn the frame's size as soon as its header is there; what is to be stored."""
        if incoming.position or len(data) < HEADER_BYTES:
            incoming.header += data
            incoming.position += len(data)
            self._chunk_remaining -= len(data)
            if incoming.position < HEADER_BYTES:
                return data
            data = memoryview(incoming.header)
            self._chunk_remaining += len(data)
            incoming.position = 0
        incoming.total = frame_bytes(data)
        if self._lane == _CONTROL and incoming.total > MAX_CONTROL_BYTES:
            raise FrameError(f"{self.name} sent a control frame of {incoming.total} bytes")
        incoming.buffer = self._pool.take(incoming.total)
        return data

    def _advance(self, incoming: _Incoming, count: int, frames: list[Frame]) -> None:
        incoming.position += count
        self._chunk_remaining -= count
        if incoming.position < incoming.total:
            return
        if self._chunk_remaining:
            raise FrameError(f"{self.name} sent more bytes than its frame holds")
        buffer, total = incoming.buffer, incoming.total
        incoming.reset()
        self._deliver(buffer, total, self._lane, frames)

    def release(self, frame: Frame) -> None:
        """Hand the buffer of a received data frame back, once: its tensors are gone after."""
        if frame.lease is None:
            return
        num_bytes = frame_bytes(frame.lease)
        self._held_bytes -= num_bytes
        self._credit_owed_bytes += num_bytes
        self._pool.give(frame.lease)
        if self._credit_owed_bytes * 4 >= WINDOW_BYTES:
            self._note_start()
            with contextlib.suppress(LinkClosed):  # the next `receive` says so
                self.flush()

    def close(self) -> None:
        """Close the channel; what is queued is lost."""
        self.channel.close()
