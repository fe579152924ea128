"""A member's graphs in ONNX Runtime, one after the other, with an exchange between each two.

The members may keep the sequences of a pass in other slots, for each hears at another time that one
is released. So rows are computed in the order of their slots, and exchanged in that of the pass.

Shapes: B rows, T tokens of each, N = B T, R tokens whose logits are wanted, W width, V own logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from partwise.part.exchange import Exchange
from partwise.part.onnx.kv import KvPool
from partwise.part.onnx.session import MAX_WINDOWS, make_options, value_of
from partwise.store import aligned_empty

Floats = NDArray[np.float32]


def open_segments(path: Path, segments: Sequence[int], threads: int) -> list[Any]:
    """ONNX Runtime with each of the graphs in ``path``, which take so many bytes."""
    options = make_options(threads)
    # Each session has its own threads: those of one must not wait awake while the next computes.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # An arena each would keep the buffers of a long prompt as often as there are graphs.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent)
    )
    raw, sessions, start = path.read_bytes(), [], 0
    for num_bytes in segments:
        graph = raw[start : start + num_bytes]
        sessions.append(
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        )
        start += num_bytes
    return sessions


class SegmentedGraph:
    """Runs the graphs of a member, in the place of a `Graph`.

    ``width`` is that of hidden states, ``num_logits`` the member's own number of logits; None: its
    stage has no head.
    """

    def __init__(
        self,
        sessions: Sequence[Any],
        kv: KvPool | None,
        exchange: Exchange,
        width: int,
        num_logits: int | None,
    ) -> None:
        self._sessions = sessions
        self._kv = kv
        self._exchange = exchange
        self._width = width
        self._num_logits = num_logits
        self._buffers = _Buffers(width)
        self._windows: dict[tuple[int, int], _Window] = {}
        self._generation = -1

    def run(
        self, hidden_BTW: Floats, start: int, lengths: Sequence[int], asking: Sequence[int],
        order: Sequence[int] = (),
    ) -> Floats:  # fmt: skip
        """See `Graph.run`. Blocks while it exchanges, and raises as `Exchange` does."""
        rows, tokens, _ = hidden_BTW.shape
        window = self._window(start, rows)
        buffers = window.prepare(tokens, len(asking))
        buffers.turns[0][...] = hidden_BTW
        if asking:
            window.asking[...] = asking
        window.lengths[...] = [length - 1 for length in lengths]
        window.total[()] = max(lengths)
        places = _find_places(order)
        for segment in window.segments:
            segment.run()
            if segment.is_exchanged:
                self._sum(buffers, segment, places)
        return window.out

    def forget(self) -> None:
        """See `Graph.forget`."""
        self._windows.clear()

    def _sum(self, buffers: _Bound, segment: _Segment, places: NDArray[np.int64] | None) -> None:
        """Exchange what the members' segments have added."""
        partial_NW = buffers.partial_NW
        if not segment.has_partial:
            partial_NW[...] = 0
        if places is None:
            buffers.pending_NW[...] = self._exchange.sum(partial_NW)
        else:
            buffers.pending_NW[places] = self._exchange.sum(partial_NW[places])

    def _window(self, start: int, rows: int) -> _Window:
        generation = 0 if self._kv is None else self._kv.generation
        if generation != self._generation or len(self._windows) >= MAX_WINDOWS:
            self._windows.clear()
            self._generation = generation
        window = self._windows.get((start, rows))
        if window is None:
            caches = [] if self._kv is None else self._kv.views(start, start + rows)
            window = self._windows[start, rows] = _Window(
                [_Segment(session) for session in self._sessions], self._buffers, caches,
                (rows, self._width, self._num_logits),
            )  # fmt: skip
        return window


def _find_places(order: Sequence[int]) -> NDArray[np.int64] | None:
    """Where the rows of a call are, in the order of the pass; None: they are in it."""
    if len(order) < 2:
        return None
    places = np.argsort(order)
    return None if (places[1:] > places[:-1]).all() else places


class _Segment:
    """A session, and what is bound to it."""

    def __init__(self, session: Any) -> None:
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]
        self.has_partial = "partial" in self._outputs
        self.is_exchanged = "residual" in self._outputs
        self._binding = session.io_binding()
        self._run = session.run_with_iobinding

    def run(self) -> None:
        self._run(self._binding)

    def bind(self, values: dict[str, Any]) -> None:
        """Take those of ``values`` that it has under these names."""
        for name in values.keys() & self._inputs:
            self._binding.bind_ortvalue_input(name, values[name])
        for name in values.keys() & self._outputs:
            self._binding.bind_ortvalue_output(name, values[name])


class _Bound:
    """The hidden states of one call: ``turns`` are the residual before and after a segment, in
    turns (B, T, W); ``partial_NW`` is exchanged for ``pending_NW``."""

    def __init__(self, arrays: Sequence[Floats], shape: tuple[int, int, int]) -> None:
        count = shape[0] * shape[1] * shape[2]
        one, other, partial, pending, out = (array[:count].reshape(shape) for array in arrays)
        self.turns = (one, other)
        self.partial_NW = partial.reshape(-1, shape[2])
        self.pending_NW = pending.reshape(-1, shape[2])
        self.out = out
        self.values = {"partial": value_of(partial), "pending": value_of(pending)}
        self.turn_values = (value_of(one), value_of(other))


class _Buffers:
    """Memory for the hidden states of a call, which all calls share: as much as the largest."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._arrays: list[Floats] = [np.empty(0, np.float32)]

    def take(self, rows: int, tokens: int) -> _Bound:
        """Views of it. What was taken before goes on to be valid, but for its contents."""
        count = rows * tokens * self._width
        if count > len(self._arrays[0]):
            self._arrays = [aligned_empty((count,), np.float32) for _ in range(5)]
        return _Bound(self._arrays, (rows, tokens, self._width))


class _Window:
    """Rows in slots that follow each other, bound to every segment."""

    def __init__(
        self,
        segments: Sequence[_Segment],
        buffers: _Buffers,
        caches: list[tuple[Floats, Floats]],
        sizes: tuple[int, int, int | None],
    ) -> None:
        self.segments = segments
        self._buffers = buffers
        self._rows, self._width, self._num_logits = sizes
        self.lengths = np.zeros(self._rows, np.int32)
        self.total = np.zeros((), np.int32)
        self.asking = np.empty(0, np.int64)
        self.out: Floats = np.empty((0, 0), np.float32)
        self._sizes = (-1, -1)
        self._bound: _Bound | None = None
        self._bind_fixed(caches)

    def _bind_fixed(self, caches: list[tuple[Floats, Floats]]) -> None:
        """The caches, of which each segment has those of its blocks, and where the rows stand."""
        values = {"lengths": value_of(self.lengths), "total": value_of(self.total)}
        for index, pair in enumerate(caches):
            for name, cache in zip(("key", "value"), pair, strict=True):
                value = value_of(cache)
                values |= {f"past_{index}_{name}": value, f"present_{index}_{name}": value}
        for segment in self.segments:
            segment.bind(values)

    def prepare(self, tokens: int, num_asking: int) -> _Bound:
        """Have buffers for so many tokens a row, and so many that ask."""
        if self._bound is not None and (tokens, num_asking) == self._sizes:
            return self._bound
        self._sizes = (tokens, num_asking)
        bound = self._bound = self._buffers.take(self._rows, tokens)
        self.asking = np.zeros(num_asking, np.int64)
        self.out = bound.out
        if self._num_logits is not None:
            self.out = aligned_empty((num_asking, self._num_logits), np.float32)
        values = {**bound.values, "asking": value_of(self.asking), "out": value_of(self.out)}
        for number, segment in enumerate(self.segments):
            hidden, residual = bound.turn_values[number % 2], bound.turn_values[1 - number % 2]
            segment.bind({**values, "hidden": hidden, "residual": residual})
        return bound
