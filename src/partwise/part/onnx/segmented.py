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
from partwise.part.onnx.bound import Bound, Buffers, Segment, Window
from partwise.part.onnx.kv import KvPool
from partwise.part.onnx.session import MAX_WINDOWS, make_options

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
        self._buffers = Buffers(width)
        self._windows: dict[tuple[int, int], Window] = {}
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

    def _sum(self, buffers: Bound, segment: Segment, places: NDArray[np.int64] | None) -> None:
        """Exchange what the members' segments have added."""
        partial_NW = buffers.partial_NW
        if not segment.has_partial:
            partial_NW[...] = 0
        if places is None:
            buffers.pending_NW[...] = self._exchange.sum(partial_NW)
        else:
            buffers.pending_NW[places] = self._exchange.sum(partial_NW[places])

    def _window(self, start: int, rows: int) -> Window:
        generation = 0 if self._kv is None else self._kv.generation
        if generation != self._generation or len(self._windows) >= MAX_WINDOWS:
            self._windows.clear()
            self._generation = generation
        window = self._windows.get((start, rows))
        if window is None:
            caches = [] if self._kv is None else self._kv.views(start, start + rows)
            window = self._windows[start, rows] = Window(
                [Segment(session) for session in self._sessions], self._buffers, caches,
                (rows, self._width, self._num_logits),
            )  # fmt: skip
        return window


def _find_places(order: Sequence[int]) -> NDArray[np.int64] | None:
    """Where the rows of a call are, in the order of the pass; None: they are in it."""
    if len(order) < 2:
        return None
    places = np.argsort(order)
    return None if (places[1:] > places[:-1]).all() else places
