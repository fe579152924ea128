"""The parameters of a part as tensors: what it owns of them, each read once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from partwise.model import Layer, Parameter
from partwise.part.owned import Owned, Ranges, read_owned
from partwise.part.runner import RunnerOptions
from partwise.part.torch.place import Place

Key = tuple[str, tuple[Ranges | None, ...]]


class PartWeights:
    """Reads ``layers`` of a part, which owns ``owned`` of each, to ``place``; tied parameters
    share a tensor.

    ``total_bytes`` are those of all tensors; they follow ``options.on_progress``.
    """

    def __init__(
        self,
        options: RunnerOptions,
        layers: Sequence[Layer],
        owned: Sequence[Owned],
        place: Place,
    ) -> None:
        self._place = place
        self._store = options.store
        self._report = options.on_progress
        self._read: dict[Key, Tensor] = {}
        sizes = {
            _key(parameter, own): place.dtype.itemsize * _count_elements(parameter, own)
            for layer, own in zip(layers, owned, strict=True)
            for parameter in layer.parameters
        }
        self.total_bytes = sum(sizes.values())
        self._done_bytes = 0

    def read(self, layer: Layer, owned: Owned) -> Mapping[str, Tensor]:
        """What is owned of the parameters of ``layer``, by their names.

        Raises:
            StoreError: as `Store.read`.
        """
        return {parameter.name: self._tensor(parameter, owned) for parameter in layer.parameters}

    def _tensor(self, parameter: Parameter, owned: Owned) -> Tensor:
        key = _key(parameter, owned)
        if key not in self._read:
            read = torch.from_numpy(read_owned(self._store, parameter, owned))
            tensor = self._place.put(read)
            self._read[key] = tensor
            self._done_bytes += tensor.nbytes
            self._report(self._done_bytes, self.total_bytes)
        return self._read[key]


def _key(parameter: Parameter, owned: Owned) -> Key:
    """What tells tensors apart: the bytes in the store, and what is owned of them."""
    kinds = sorted({axis.kind for axis in parameter.neurons})
    return parameter.stored_name, tuple(owned.by_kind.get(kind) for kind in kinds)


def _count_elements(parameter: Parameter, owned: Owned) -> int:
    boxes = owned.slices(parameter)
    return sum(math.prod(axis.stop - axis.start for axis in box) for box in boxes)
