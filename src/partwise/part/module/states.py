"""Parameters and buffers of a captured module from the store, whole or for some neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from partwise.capture.files import READ_AS_FP32
from partwise.capture.graph import State
from partwise.errors import DamagedModel
from partwise.registry.gathers import Ids
from partwise.store import Store


class StateReader:
    """Reads states as tensors, each whole one once. ``num_bytes`` counts what it has read."""

    def __init__(self, store: Store, states: Mapping[str, State]) -> None:
        self.num_bytes = 0
        self._store = store
        self._states = states
        self._whole: dict[str, torch.Tensor] = {}

    def read(self, name: str, slices: Sequence[tuple[int, Ids]] = ()) -> torch.Tensor:
        """The state ``name``, or its elements at these ids along these axes.

        Raises:
            DamagedModel: the stored tensor is another than the graph says.
            StoreError, DigestMismatch: as `Store.read`.
        """
        if not slices and name in self._whole:
            return self._whole[name]
        state = self._states[name]
        tensor = self._read_numbers(state, slices)
        self.num_bytes += tensor.numel() * tensor.element_size()
        if not slices:
            self._whole[name] = tensor
        return tensor

    def _read_numbers(self, state: State, slices: Sequence[tuple[int, Ids]]) -> torch.Tensor:
        dtype = getattr(torch, state.dtype)
        stored = self._store.manifest.tensors.get(state.name)
        if stored is None or (state.dtype in READ_AS_FP32 and stored.shape != state.shape):
            found = None if stored is None else stored.shape
            raise DamagedModel(
                f"the state {state.name!r} has the shape {found}, the graph says {state.shape}:"
                " capture the module again"
            )
        if state.dtype not in READ_AS_FP32:
            raw = torch.from_numpy(self._store.read_bytes(state.name))
            tensor = raw.view(dtype).reshape(state.shape)
            return _take(tensor, slices)
        box, inside = _bound(state.shape, slices)
        tensor = torch.from_numpy(self._store.read(state.name, box)).to(dtype)
        return _take(tensor, inside)


def _bound(
    shape: tuple[int, ...], slices: Sequence[tuple[int, Ids]]
) -> tuple[tuple[slice, ...], list[tuple[int, Ids]]]:
    """The smallest box that holds ``slices``, and what to take of it."""
    box, inside = [slice(0, size) for size in shape], []
    for axis, ids in slices:
        if not len(ids):
            box[axis] = slice(0, 0)
            continue
        first, last = int(ids[0]), int(ids[-1])
        box[axis] = slice(first, last + 1)
        if last + 1 - first > len(ids):
            inside.append((axis, ids - first))
    return tuple(box), inside


def _take(tensor: torch.Tensor, slices: Sequence[tuple[int, Ids]]) -> torch.Tensor:
    for axis, ids in slices:
        tensor = tensor.index_select(axis, torch.from_numpy(np.ascontiguousarray(ids)))
    return tensor
