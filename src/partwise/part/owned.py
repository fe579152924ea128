"""Which neurons of each layer a part owns, and the slices of parameters that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.placement import split_kinds
from partwise.distributor.plan import Plan
from partwise.model import Parameter
from partwise.store import Store

Floats = NDArray[np.float32]
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Neurons of one layer that a part owns: half-open ranges for each kind that its stage splits
    there. Of other kinds it holds all."""

    by_kind: Mapping[str, Ranges] = field(default_factory=dict)

    def is_split(self, kind: str) -> bool:
        """Whether the members of its stage share the neurons of ``kind``."""
        return kind in self.by_kind

    def count(self, kind: str, total: int) -> int:
        """How many of the ``total`` neurons of ``kind`` it owns."""
        if kind not in self.by_kind:
            return total
        return sum(stop - start for start, stop in self.by_kind[kind])

    def slices(self, parameter: Parameter) -> list[tuple[slice, ...]]:
        """The boxes of ``parameter`` that belong to these neurons, to be joined along its axis of
        neurons in this order. One box of all where it is not split."""
        kinds = {axis.kind for axis in parameter.neurons}
        if not kinds & self.by_kind.keys():
            return [tuple(slice(0, size) for size in parameter.shape)]
        boxes = []
        low, high = parameter.neuron_span
        for axis in parameter.neurons:
            for owned_start, owned_stop in self.by_kind[axis.kind]:
                start, stop = max(owned_start, low), min(owned_stop, high)
                if start < stop:
                    box = [slice(0, size) for size in parameter.shape]
                    first = axis.offset + (start - low) * axis.width
                    box[axis.axis] = slice(first, first + (stop - start) * axis.width)
                    boxes.append(tuple(box))
        return boxes

    def holds(self, parameter: Parameter) -> bool:
        """Whether anything of ``parameter`` belongs to these neurons."""
        return bool(self.slices(parameter))


def find_owned_neurons(plan: Plan, part: str, layer: int) -> Owned:
    """What ``part`` owns in layer ``layer`` of the model, under a verified plan.

    Raises:
        PlanError: the plan has no such part.
    """
    stage = plan.stage_of(part)
    member = next(m for m in stage.members if m.part == part)
    owned: dict[str, Ranges] = dict.fromkeys(split_kinds(stage, layer), ())
    for share in member.neurons:
        if share.is_about(layer):
            owned[share.kind] = tuple(sorted((*owned[share.kind], *share.ranges)))
    return Owned(by_kind=owned)


def read_owned(store: Store, parameter: Parameter, owned: Owned) -> Floats:
    """The values of ``parameter`` that belong to ``owned``, in fp32; its shape, but for the axis of
    its neurons, which is as long as they are.

    Raises:
        StoreError: as `Store.read`.
    """
    boxes = owned.slices(parameter)
    if not boxes:
        shape = list(parameter.shape)
        shape[parameter.neurons[0].axis] = 0
        return np.empty(shape, np.float32)
    read = [store.read(parameter.stored_name, box) for box in boxes]
    return read[0] if len(read) == 1 else np.concatenate(read, axis=_axis_of(parameter))


def _axis_of(parameter: Parameter) -> int:
    return parameter.neurons[0].axis
