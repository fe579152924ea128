"""Which neurons of each layer a part owns, and the slices of parameters that belong to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.placement import split_kinds
from partwise.distributor.plan import Plan
from partwise.model import Parameter
from partwise.store import BLOCK_BYTES, Store, aligned_empty

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
    its neurons, which is as long as they are. Contiguous, its base aligned as `Store.read`'s.

    Raises:
        StoreError: as `Store.read`.
    """
    boxes = owned.slices(parameter)
    if len(boxes) == 1:
        return store.read(parameter.stored_name, boxes[0])
    axis = parameter.neurons[0].axis
    shape = list(parameter.shape)
    shape[axis] = sum(box[axis].stop - box[axis].start for box in boxes)
    values: Floats = aligned_empty(shape, np.float32)
    target = values.swapaxes(0, axis)
    done = 0
    for run in _join_close(parameter, [box[axis] for box in boxes]):
        start, stop = run[0].start, run[-1].stop
        box = [slice(0, size) for size in parameter.shape]
        box[axis] = slice(start, stop)
        read = store.read(parameter.stored_name, tuple(box)).swapaxes(0, axis)
        for own in run:
            count = own.stop - own.start
            target[done : done + count] = read[own.start - start : own.stop - start]
            done += count
    return values


def _join_close(parameter: Parameter, owned: Sequence[slice]) -> list[list[slice]]:
    """``owned`` along the axis of neurons, in runs to be read at once: the store reads and checks
    whole blocks, so what lies between two of them in one block costs nothing."""
    axis = parameter.neurons[0].axis
    row_bytes = 4 * parameter.num_elements // parameter.shape[axis]
    # Along any axis but the first, neurons have elements in all blocks.
    limit = BLOCK_BYTES // row_bytes if axis == 0 else parameter.shape[axis]
    runs: list[list[slice]] = []
    for own in owned:
        if runs and own.start - runs[-1][-1].stop <= limit:
            runs[-1].append(own)
        else:
            runs.append([own])
    return runs
