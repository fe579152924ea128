"""What the graphs of a member compute on, bound once and used again.

Shapes: B rows, T tokens of each, N = B T, R tokens whose logits are wanted, W width, V own logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.part.onnx.session import value_of
from partwise.store import aligned_empty

Floats = NDArray[np.float32]


class Segment:
    """A session, and what is bound to it. ``is_exchanged``: the members' sum comes next, of which
    ``has_partial`` says whether it gives a term."""

    def __init__(self, session: Any) -> None:
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]
        self.has_partial = "partial" in self._outputs
        self.is_exchanged = "residual" in self._outputs
        self._binding = session.io_binding()
        self._run = session.run_with_iobinding

    def run(self) -> None:
        """Compute what is bound."""
        self._run(self._binding)

    def bind(self, values: dict[str, Any]) -> None:
        """Take those of ``values`` that it has under these names."""
        for name in values.keys() & self._inputs:
            self._binding.bind_ortvalue_input(name, values[name])
        for name in values.keys() & self._outputs:
            self._binding.bind_ortvalue_output(name, values[name])


class Bound:
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


class Buffers:
    """Memory for the hidden states of a call, which all calls share: as much as the largest."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._arrays: list[Floats] = [np.empty(0, np.float32)]

    def take(self, rows: int, tokens: int) -> Bound:
        """Views of it. What was taken before goes on to be valid, but for its contents."""
        count = rows * tokens * self._width
        if count > len(self._arrays[0]):
            self._arrays = [aligned_empty((count,), np.float32) for _ in range(5)]
        return Bound(self._arrays, (rows, tokens, self._width))


class Window:
    """Rows in slots that follow each other, bound to every segment."""

    def __init__(
        self,
        segments: Sequence[Segment],
        buffers: Buffers,
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
        self._bound: Bound | None = None
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

    def prepare(self, tokens: int, num_asking: int) -> Bound:
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
