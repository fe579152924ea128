"""Computes one part of a captured module, phase by phase.

How frames travel is not its own: it is given a `Post`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from partwise.capture.layout import Share
from partwise.capture.passes import Pass
from partwise.capture.schedule import Parcel, Schedule
from partwise.part.module.operations import Operation, Pick
from partwise.part.module.states import StateReader
from partwise.remote.layout import Array
from partwise.store import Store


class Post(Protocol):
    """What goes to other parts in one pass, and comes from them."""

    def push(self, parcel: Parcel, tensors: Sequence[Array]) -> None:
        """Send the tensors of ``parcel``; they do not change any more."""
        ...

    def take(self, parcel: Parcel) -> Sequence[Array]:
        """The tensors of ``parcel``, good until the next call. Blocks.

        Raises:
            DeadlineExceeded: they did not come in time; names the part that owes them.
            RemoteError: that part went away.
        """
        ...


class ModuleRunner:
    """A part with its parameters. One thread owns it. ``weight_bytes`` are those it has read."""

    def __init__(self, schedule: Schedule, part: str, store: Store) -> None:
        """Read the parameters of the operations that ``part`` computes.

        Raises:
            DamagedModel, StoreError: as `StateReader.read`.
        """
        self._part = part
        self._schedule = schedule
        self._values = schedule.layouts.values
        self._phases = schedule.phases[part]
        reader = StateReader(store, self._values.states)
        self._operations = [
            [Operation(share, self._find_picks(share), reader) for share in phase.shares]
            for phase in self._phases
        ]
        self.weight_bytes = reader.num_bytes

    def run(self, batch: int, post: Post, between_phases: Callable[[], None]) -> None:
        """One pass over ``batch`` rows: take, compute and push, phase by phase.

        ``between_phases`` is called between any two and may raise to abandon the pass.
        """
        current = Pass(self._schedule, self._part, batch)
        with torch.inference_mode():
            for phase, operations in zip(self._phases, self._operations, strict=True):
                for parcel in phase.received:
                    current.open(parcel, post.take(parcel))
                for operation in operations:
                    current.own[operation.node.name] = operation.compute(current)
                for parcel in phase.sent:
                    post.push(parcel, current.pack(parcel))
                between_phases()

    def _find_picks(self, share: Share) -> dict[str, Pick]:
        """What ``share`` takes of each value of which the part has more than it wants."""
        picks: dict[str, Pick] = {}
        for name, want in share.wants.items():
            layout, spec = self._schedule.layouts.of[name], self._values.spec(name)
            assert spec is not None
            if want.axis == layout.axis:
                local = self._schedule.local_ids(self._part, name)
            else:
                local = np.arange(spec.shape[want.axis].constant)
            if not np.array_equal(local, want.ids):
                places = np.searchsorted(local, want.ids).astype(np.int64)
                picks[name] = want.axis, torch.from_numpy(places)
        return picks
