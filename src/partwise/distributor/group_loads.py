"""What runs of layers ask of the members that share their neurons, for many runs at once.

Counts and bytes only, as `footprint.py` and `load.py` have them; no time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partwise.distributor.footprint import measure_footprint
from partwise.distributor.holding import count_held
from partwise.distributor.layer_classes import LayerClasses, Runs
from partwise.distributor.load import measure_share
from partwise.distributor.member_shares import Owned, Shares
from partwise.distributor.workload import Workload
from partwise.model.description import Layer

NUM_COLUMNS = 7


class GroupLoads:
    """Loads of ``classes`` while ``workload`` computes, where memory is taken for ``asked``."""

    def __init__(
        self, classes: LayerClasses, hidden_size: int, workload: Workload, asked: Workload
    ) -> None:
        self._classes, self._hidden_size = classes, hidden_size
        self._workload, self._asked = workload, asked
        self._loads: dict[tuple[int, Owned, bool, int], tuple[float, ...]] = {}

    def add_up(
        self, runs: Runs, shares: Shares, rows: int, num_in_flight: int = 1
    ) -> tuple[NDArray[np.float64], ...]:
        """Of each run and member (runs, members): bytes read, working set, multiply-accumulates,
        memory that adds up (with so many microbatches in flight), the working set at the streams
        asked for, memory used in turns."""
        apart = self._find(shares, rows, has_ties=False)
        num_classes, num_members, _ = apart.shape
        sums = runs.counts @ apart.reshape(num_classes, -1)
        if self._classes.tied:
            together = self._find(shares, rows, has_ties=True)
            with_ties = runs.counts[runs.has_ties]
            sums[runs.has_ties] = with_ties @ together.reshape(num_classes, -1)
        columns = sums.reshape(len(sums), num_members, NUM_COLUMNS)
        columns[:, :, 3] += (num_in_flight - 1) * columns[:, :, 6]
        reused = np.zeros((len(sums), num_members))
        for i in range(num_classes):
            np.maximum(reused, (runs.counts[:, i : i + 1] > 0) * apart[i, :, 5], out=reused)
        return (*(columns[:, :, i] for i in range(5)), reused)

    def _find(self, shares: Shares, rows: int, *, has_ties: bool) -> NDArray[np.float64]:
        """The numbers of one layer of each class, for each member (classes, members, columns)."""
        return np.array(
            [
                [self._load(i, owned, has_ties, rows) for owned in members]
                for i, members in enumerate(shares)
            ]
        )

    def _load(self, index: int, owned: Owned, has_ties: bool, rows: int) -> tuple[float, ...]:
        """The numbers of `add_up` for one layer of a class, by the neurons owned of it, and the
        memory that each microbatch in flight takes.

        A tied parameter is split only in a stage that holds all layers that share it, and held
        once there.
        """
        is_tied = index in self._classes.tied
        key = (index, owned, has_ties and is_tied, rows)
        if key not in self._loads:
            is_apart = is_tied and not has_ties
            self._loads[key] = self._measure(
                self._classes.layers[index], dict(owned), is_apart, rows
            )
        return self._loads[key]

    def _measure(
        self, layer: Layer, owned: dict[str, int], is_apart: bool, rows: int
    ) -> tuple[float, ...]:
        workload, own = self._workload, self._asked
        held = [
            count_held(p, {} if is_apart and self._classes.is_tied(p) else owned, own.mlp_sparsity)
            for p in layer.parameters
        ]
        load = measure_share(layer, sum(held), owned, own.mlp_sparsity)
        footprint = measure_footprint(layer, load, self._hidden_size, own)
        twice = sum(n for n, p in zip(held, layer.parameters, strict=True) if p.alias_of)
        saved = 0 if is_apart else round(twice * own.element_bytes) + 12 * twice * own.is_training
        return (
            load.read_bytes(workload, rows) * workload.num_passes,
            load.working_set_bytes(workload),
            load.macs(workload) * rows * workload.num_passes,
            footprint.kept_bytes - saved,
            load.working_set_bytes(own),
            footprint.reused_bytes,
            footprint.saved_activation_bytes,
        )
