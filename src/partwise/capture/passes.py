"""What one part has in one pass of a captured module: its own results, what came, both joined."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from partwise.capture.arguments import read_argument
from partwise.capture.schedule import Parcel, Piece, Schedule
from partwise.capture.wire import from_wire, to_wire
from partwise.errors import FrameError
from partwise.remote.layout import Array

if TYPE_CHECKING:
    import torch

    from partwise.capture.graph import TensorSpec


class Pass:
    """The values of ``part`` in one pass of ``batch`` rows. ``own`` are those that it computed, or
    was called with: tensors, or tuples of them."""

    def __init__(self, schedule: Schedule, part: str, batch: int) -> None:
        self.batch = batch
        self.own: dict[str, Any] = {}
        self._part = part
        self._layouts = schedule.layouts
        self._values = schedule.layouts.values
        self._pieces: dict[str, list[tuple[Piece, Any]]] = {}
        self._local: dict[str, Any] = {}

    def find(self, name: str) -> Any:
        """What the part has of a value: its neurons, and those that came, by ascending ids."""
        if name not in self._local:
            self._local[name] = self._join(name)
        return self._local[name]

    def _join(self, name: str) -> Any:
        import torch

        own, pieces = self.own.get(name), self._pieces.get(name, [])
        layout = self._layouts.of[name]
        if not pieces:
            return self.make_empty(name) if own is None else own
        if own is None and len(pieces) == 1:
            return pieces[0][1]
        assert layout.axis is not None
        tensors = [tensor for _, tensor in pieces]
        ids = [piece.ids for piece, _ in pieces if piece.ids is not None]
        if own is not None:
            tensors, ids = [own, *tensors], [layout.held[self._part], *ids]
        order = torch.from_numpy(np.argsort(np.concatenate(ids)))
        return torch.cat(tensors, layout.axis).index_select(layout.axis, order)

    def make_empty(self, name: str) -> torch.Tensor:
        """What a part has of a value of which it has no neurons."""
        import torch

        spec, axis = self._values.spec(name), self._layouts.of[name].axis
        assert spec is not None
        assert axis is not None
        sizes = list(spec.sizes(self.batch))
        sizes[axis] = 0
        return torch.empty(sizes, dtype=getattr(torch, spec.dtype))

    def open(self, parcel: Parcel, tensors: Sequence[Array]) -> None:
        """Take in what came; the tensors are copied.

        Raises:
            FrameError: others than the schedule says.
        """
        left = list(tensors)
        expected = sum(len(self._values.leaves(piece.value)) for piece in parcel.pieces)
        if len(left) != expected:
            raise FrameError(
                f"{parcel.source} sent {len(left)} tensors to {self._part}, {expected} are"
                " expected: do both run the same partwise?"
            )
        for piece in parcel.pieces:
            leaves = self._values.leaves(piece.value)
            found = [from_wire(left.pop(0), self._find_sizes(piece, leaf), leaf) for leaf in leaves]
            structure = self._values.structure(piece.value)
            value = read_argument(structure, {"leaf": partial(getitem, found)}, 0)
            self._pieces.setdefault(piece.value, []).append((piece, value))

    def _find_sizes(self, piece: Piece, leaf: TensorSpec) -> tuple[int, ...]:
        sizes, axis = leaf.sizes(self.batch), self._layouts.of[piece.value].axis
        if piece.ids is None or axis is None:
            return sizes
        return (*sizes[:axis], len(piece.ids), *sizes[axis + 1 :])

    def pack(self, parcel: Parcel) -> list[Array]:
        """The tensors of a parcel of this part, as they travel."""
        import torch

        packed = []
        for piece in parcel.pieces:
            layout, value = self._layouts.of[piece.value], self.own[piece.value]
            held = layout.held[self._part]
            if piece.ids is not None and len(piece.ids) < len(held):
                assert layout.axis is not None
                places = torch.from_numpy(np.searchsorted(held, piece.ids))
                value = value.index_select(layout.axis, places)
            leaves = self._values.leaves(piece.value)
            tensors = list_tensors(value)
            packed += [to_wire(t, leaf.order) for leaf, t in zip(leaves, tensors, strict=True)]
        return packed


def list_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors that a value is made of, in the order of its leaves."""
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in list_tensors(item)]
    return [] if value is None else [value]
