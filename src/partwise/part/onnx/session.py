"""A part's graph in ONNX Runtime, its caches and inputs bound once and used again.

Shapes: B rows, T tokens of each, R tokens whose logits are wanted, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from partwise.part.onnx.kv import KvPool
from partwise.part.waiting import waits_asleep
from partwise.store import aligned_empty

Floats = NDArray[np.float32]

MAX_WINDOWS = 64
"""Sets of rows for which bindings are kept."""
_QUIET = 3
"""Errors alone are logged: warnings are about what graphs cannot say."""


def open_session(path: Path, threads: int) -> Any:
    """ONNX Runtime with the graph in ``path``, ready to run."""
    return onnxruntime.InferenceSession(
        str(path), make_options(threads), providers=["CPUExecutionProvider"]
    )


def make_options(threads: int) -> Any:
    """How every session runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    if waits_asleep():
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Graph:
    """Runs the graph of a part over rows whose caches lie in ``kv``; None: it has no blocks.

    ``width`` is that of hidden states, ``vocabulary`` the number of logits; 0: it has no head.
    """

    def __init__(self, session: Any, kv: KvPool | None, width: int, vocabulary: int) -> None:
        self._session = session
        self._kv = kv
        self._width = width
        self._vocabulary = vocabulary
        self._windows: dict[tuple[int, int], _Window] = {}
        self._generation = -1

    def run(
        self, hidden_BTW: Floats, start: int, lengths: Sequence[int], asking: Sequence[int],
        order: Sequence[int] = (),
    ) -> Floats:  # fmt: skip
        """Hidden states (B, T, W), or with a head the logits (R, V) of the tokens ``asking``.

        ``start`` is the first row's slot, ``lengths`` are each row's tokens with the new ones,
        ``order`` is where in the pass each row stands, which only a member has to know. The
        result is valid until the next call.
        """
        rows, tokens, _ = hidden_BTW.shape
        window = self._window(start, rows)
        window.prepare(tokens, len(asking))
        window.hidden[...] = hidden_BTW
        if asking:
            window.asking[...] = asking
        window.lengths[...] = [length - 1 for length in lengths]
        window.total[()] = max(lengths)
        self._session.run_with_iobinding(window.binding)
        return window.out

    def forget(self) -> None:
        """Let go of the caches, so that their memory is free when the pool drops them."""
        self._windows.clear()

    def _window(self, start: int, rows: int) -> _Window:
        generation = 0 if self._kv is None else self._kv.generation
        if generation != self._generation or len(self._windows) >= MAX_WINDOWS:
            self._windows.clear()
            self._generation = generation
        window = self._windows.get((start, rows))
        if window is None:
            caches = [] if self._kv is None else self._kv.views(start, start + rows)
            sizes = rows, self._width, self._vocabulary
            window = self._windows[start, rows] = _Window(self._session, sizes, caches)
        return window


class _Window:
    """Rows in slots that follow each other, bound to the graph."""

    def __init__(
        self, session: Any, sizes: tuple[int, int, int], caches: list[tuple[Floats, Floats]]
    ) -> None:
        self._rows, self._width, self._vocabulary = sizes
        self.binding = session.io_binding()
        self.lengths = np.zeros(self._rows, np.int32)
        self.total = np.zeros((), np.int32)
        self.hidden = self.out = np.empty((0, 0, 0), np.float32)
        self.asking = np.empty(0, np.int64)
        if caches:
            self._input("lengths", self.lengths)
            self._input("total", self.total)
        for index, pair in enumerate(caches):
            for name, cache in zip(("key", "value"), pair, strict=True):
                value = value_of(cache)
                self.binding.bind_ortvalue_input(f"past_{index}_{name}", value)
                self.binding.bind_ortvalue_output(f"present_{index}_{name}", value)
        self._sizes = (-1, -1)

    def prepare(self, tokens: int, num_asking: int) -> None:
        """Have buffers for so many tokens a row, and so many that ask."""
        if (tokens, num_asking) == self._sizes:
            return
        self._sizes = (tokens, num_asking)
        shape = (self._rows, tokens, self._width)
        self.hidden = aligned_empty(shape, np.float32)
        self._input("hidden", self.hidden)
        if self._vocabulary:
            self.asking = np.zeros(num_asking, np.int64)
            self._input("asking", self.asking)
            shape = (num_asking, self._vocabulary)  # type: ignore[assignment]
        self.out = aligned_empty(shape, np.float32)
        self.binding.bind_ortvalue_output("out", value_of(self.out))

    def _input(self, name: str, values: NDArray[Any]) -> None:
        self.binding.bind_ortvalue_input(name, value_of(values))


def value_of(values: NDArray[Any]) -> Any:
    """ONNX Runtime's view of an array, which it keeps alive."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(values)
