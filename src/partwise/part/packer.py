"""What a part sends to the next one: packed by the codec of their link, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np

from partwise.errors import CodecError, NotFinite
from partwise.part.converter import BESIDE_BYTES, Converter
from partwise.part.timeline import Timeline
from partwise.remote.buffers import BufferPool
from partwise.remote.codecs import Packed, make_codec, packed_bytes
from partwise.remote.codecs.codec import Floats
from partwise.remote.counters import Traffic
from partwise.remote.frame import Frame, take_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Where packed frames go: from the part ``source`` to the part ``target``. ``is_sent`` says
    whether the link needs none of the tensors that it was given any more; ``fail`` is called with
    why a frame could not be packed."""

    codec: str
    source: str
    target: str
    send: Callable[[Frame], None]
    is_sent: Callable[[], bool]
    fail: Callable[[Exception], None]


class Packer:
    """Packs frames and sends them. The server's thread alone calls it.

    Packing goes on beside computing where there is more to compute and the tensors are worth
    it; else at once, for nobody would win by a thread.
    """

    def __init__(
        self, way: Way, converter: Converter, timeline: Timeline, traffic: Traffic
    ) -> None:
        self._way = way
        self._converter = converter
        self._timeline = timeline
        self._traffic = traffic
        self._codec = make_codec(way.codec)
        self._pool = BufferPool()
        self._sent: list[memoryview] = []  # buffers that the link may still read
        self._num_packing = 0

    def push(self, frame: Frame, *, has_more: bool) -> None:
        """Send ``frame``, whose tensors are plain; ``has_more``: there is more to compute."""
        num_bytes = sum(tensor.nbytes for tensor in frame.tensors)
        self._traffic.frames += 1
        self._traffic.plain_bytes += num_bytes
        if self._codec is None:
            self._traffic.moved_bytes += num_bytes
            self._way.send(frame)
            return
        self._take_back()
        job = _Job(frame, self._way.codec, self._pool)
        if self._num_packing or (has_more and num_bytes >= BESIDE_BYTES):
            self._num_packing += 1
            self._converter.start_then(lambda: self._run(job), lambda: self._finish(job))
        else:
            self._run(job)
            self._send(job)

    def _run(self, job: _Job) -> None:
        """Pack; on whichever thread."""
        assert self._codec is not None
        job.start_ns = time.monotonic_ns()
        try:
            for tensor, packed in zip(job.plain, job.packed, strict=True):
                self._codec.pack(tensor, packed.data)
        except Exception as exc:  # noqa: BLE001 - on a thread whose errors nobody would see
            job.error = exc
        job.stop_ns = time.monotonic_ns()

    def _finish(self, job: _Job) -> None:
        self._num_packing -= 1
        self._traffic.beside_ns += job.stop_ns - job.start_ns
        self._timeline.hide(job.start_ns, job.stop_ns)
        self._send(job)

    def _send(self, job: _Job) -> None:
        self._traffic.convert_ns += job.stop_ns - job.start_ns
        self._sent += job.buffers
        if job.error is not None:
            self._way.fail(self._explain(job.error))
            return
        self._traffic.moved_bytes += sum(packed.nbytes for packed in job.packed)
        # It is under way since packing began.
        frame = msgspec.structs.replace(job.frame, tensors=job.packed, sent_ns=job.start_ns)
        self._way.send(frame)

    def _explain(self, error: Exception) -> Exception:
        """What a codec cannot carry is what the part computed; the rest is as it is."""
        if not isinstance(error, CodecError):
            return error
        text = f"{self._way.source} cannot send to {self._way.target}: {error}"
        return NotFinite(text, part=self._way.source)

    def _take_back(self) -> None:
        """Use buffers again that the link needs no more; a link that is never done keeps its own
        alive, and they go with the frames."""
        if self._way.is_sent():
            for buffer in self._sent:
                self._pool.give(buffer)
        self._sent.clear()


class _Job:
    """One frame, and room for its packed tensors."""

    def __init__(self, frame: Frame, codec: str, pool: BufferPool) -> None:
        self.frame = frame
        # Parts send each other hidden states, which are float32.
        self.plain = cast("Sequence[Floats]", take_plain(frame))
        sizes = [packed_bytes(codec, tensor.shape) for tensor in self.plain]
        self.buffers = [pool.take(max(1, size)) for size in sizes]
        self.packed = tuple(
            Packed(codec, tensor.shape, np.frombuffer(buffer, np.uint8, size))
            for tensor, buffer, size in zip(self.plain, self.buffers, sizes, strict=True)
        )
        self.error: Exception | None = None
        self.start_ns = self.stop_ns = 0
