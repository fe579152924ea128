"""The layers of a model by what they cost: most are alike, so a run of them is a few counts.

It knows no server and no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.model.description import Layer, Model, Parameter

MAX_CUTS = 160
"""Cuts between which runs are compared: all of a model of so many layers, else evenly spread."""
MAX_CLASSES_COMPARED = 16
"""Runs of models with more classes are hardly ever equal: it does not pay to compare them."""


class LayerClasses:
    """Which layers of ``model`` are alike; nothing here changes after construction.

    ``layers`` holds one layer of each class, ``of[i]`` is the class of layer i. ``tied`` are the
    classes of layers that share a parameter with another layer.
    """

    def __init__(self, model: Model) -> None:
        self._aliased = {p.alias_of for p in model.parameters if p.alias_of is not None}
        index = {first: i for i, first in enumerate(dict.fromkeys(model.alike))}
        self.layers: list[Layer] = [model.layers[first] for first in index]
        self.of: list[int] = [index[first] for first in model.alike]
        self.tied = frozenset(
            self.of[i]
            for i, layer in enumerate(model.layers)
            if any(self.is_tied(p) for p in layer.parameters)
        )
        tied_layers = [i for i, c in enumerate(self.of) if c in self.tied]
        self._tied_span = (tied_layers[0], tied_layers[-1]) if tied_layers else None
        is_class = np.array(self.of)[:, None] == np.arange(len(self.layers))
        self._sums = np.concatenate(
            (np.zeros((1, len(self.layers)), dtype=np.int64), np.cumsum(is_class, axis=0))
        )

    def is_tied(self, parameter: Parameter) -> bool:
        """Whether it shares its bytes with one of another layer."""
        return parameter.alias_of is not None or parameter.name in self._aliased

    def count(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
        """Layers of each class in the runs ``starts:stops``: shape (runs, classes)."""
        counts: NDArray[np.int64] = self._sums[stops] - self._sums[starts]
        return counts

    def has_ties(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the runs hold all layers that share parameters (none, if there are none)."""
        if self._tied_span is None:
            return np.zeros(len(starts), dtype=bool)
        first, last = self._tied_span
        return (starts <= first) & (stops > last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Runs of layers to be priced at once: layers of each class in them, and whether they hold
    all that is tied."""

    counts: NDArray[np.int64]
    has_ties: NDArray[np.bool_]


class RunTable:
    """Every run between two of ``cuts``; those that cost the same are priced once.

    ``cuts`` are layers at which a stage may start or stop, from 0 to the number of layers.
    """

    def __init__(self, classes: LayerClasses, max_cuts: int = MAX_CUTS) -> None:
        num_layers = len(classes.of)
        num_cuts = min(num_layers, max_cuts) + 1
        self.cuts = np.unique(np.linspace(0, num_layers, num_cuts).round().astype(np.int64))
        first, last = np.triu_indices(len(self.cuts), k=1)
        starts, stops = self.cuts[first], self.cuts[last]
        counts, has_ties = classes.count(starts, stops), classes.has_ties(starts, stops)
        index = np.arange(len(starts))
        chosen = index
        if counts.shape[1] <= MAX_CLASSES_COMPARED:
            rows = np.column_stack((counts, has_ties))
            _, chosen, index = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        self.runs = Runs(counts=counts[chosen], has_ties=has_ties[chosen])
        # The last place of a row of values stands for no run.
        self._index = np.full((len(self.cuts), len(self.cuts)), len(chosen))
        self._index[first, last] = index.ravel()

    def find(self, first: int, last: int) -> int:
        """Where ``runs`` has the run between two cuts (by index)."""
        return int(self._index[first, last])

    def spread(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds by first and last cut (cuts, cuts) of those by run; infinite where there is
        no run."""
        table: NDArray[np.float64] = np.append(seconds, np.inf)[self._index]
        return table


def make_runs(classes: LayerClasses, bounds: Sequence[tuple[int, int]]) -> Runs:
    """The runs of layers ``start:stop``."""
    starts, stops = np.array(bounds, dtype=np.int64).reshape(-1, 2).T
    return Runs(counts=classes.count(starts, stops), has_ties=classes.has_ties(starts, stops))
