"""What a part receives, as float32: unpacked where a codec packed it."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future

import numpy as np

from partwise.part.converter import BESIDE_BYTES, Converter
from partwise.part.timeline import Timeline
from partwise.remote.buffers import BufferPool
from partwise.remote.codecs import Codec, Packed, make_codec
from partwise.remote.codecs.codec import Floats
from partwise.remote.counters import Traffic
from partwise.remote.frame import Frame
from partwise.remote.layout import Array


class Unpacker:
    """Opens received frames. The server's thread alone calls it.

    A large frame that waits while another one is computed is unpacked meanwhile.
    """

    def __init__(self, converter: Converter, timeline: Timeline, traffic: Traffic) -> None:
        self._converter = converter
        self._timeline = timeline
        self._traffic = traffic
        self._codecs: dict[str, Codec] = {}
        self._pool = BufferPool()
        self._jobs: dict[int, _Job] = {}  # by the id of a frame's lease

    def expect(self, frame: Frame) -> None:
        """``frame`` was taken and waits while another one is computed."""
        num_bytes = sum(4 * math.prod(t.shape) for t in frame.tensors if isinstance(t, Packed))
        if num_bytes >= BESIDE_BYTES:
            job = self._prepare(frame)
            job.future = self._converter.start(job.run)

    def open(self, frame: Frame) -> tuple[Array, ...]:
        """The tensors of ``frame``, plain: its own, or copies until `close`."""
        tensors: list[Array] = []
        job, traffic = None, self._traffic
        for index, tensor in enumerate(frame.tensors):
            traffic.moved_bytes += tensor.nbytes
            if isinstance(tensor, Packed):
                job = job or self._unpack(frame)
                tensors.append(job.values[index])
            else:
                tensors.append(tensor)
            traffic.plain_bytes += tensors[-1].nbytes
        traffic.frames += 1
        return tuple(tensors)

    def _unpack(self, frame: Frame) -> _Job:
        job = self._jobs.get(id(frame.lease)) or self._prepare(frame)
        if job.future is None:
            job.run()
        else:
            job.future.result()
            self._traffic.beside_ns += job.stop_ns - job.start_ns
            self._timeline.hide(job.start_ns, job.stop_ns)
        self._traffic.convert_ns += job.stop_ns - job.start_ns
        return job

    def close(self, frame: Frame) -> None:
        """``frame`` is done with, and what `open` gave."""
        job = self._jobs.pop(id(frame.lease), None)
        if job is not None and (job.future is None or job.future.done()):
            for buffer in job.buffers:
                self._pool.give(buffer)

    def _prepare(self, frame: Frame) -> _Job:
        job = self._jobs[id(frame.lease)] = _Job()
        for index, tensor in enumerate(frame.tensors):
            if isinstance(tensor, Packed):
                count = math.prod(tensor.shape)
                buffer = self._pool.take(max(1, 4 * count))
                values = np.frombuffer(buffer, np.float32, count).reshape(tensor.shape)
                job.buffers.append(buffer)
                job.values[index] = values
                job.work.append((self._find_codec(tensor.codec), tensor, values))
        return job

    def _find_codec(self, name: str) -> Codec:
        if name not in self._codecs:
            codec = make_codec(name)
            assert codec is not None  # a frame with another name was refused
            self._codecs[name] = codec
        return self._codecs[name]


class _Job:
    """One frame's packed tensors, and where they are unpacked to."""

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []
        self.values: dict[int, Floats] = {}  # by the tensor's index
        self.work: list[tuple[Codec, Packed, Floats]] = []
        self.future: Future[None] | None = None
        self.start_ns = self.stop_ns = 0

    def run(self) -> None:
        """Unpack; on whichever thread."""
        self.start_ns = time.monotonic_ns()
        for codec, packed, values in self.work:
            codec.unpack(packed.data, values)
        self.stop_ns = time.monotonic_ns()
