"""Neurons as a hypergraph, and its cut that sends the fewest activations.

A neuron's hyperedge is itself and those of the next layer that read it: cut over k parts, its
activation is sent k - 1 times. So the connectivity metric counts exactly what is sent.

Needs `mtkahypar` (Mt-KaHyPar, the extra ``connectivity``). Source: Gottesbüren, Heuer, Maas,
Sanders, Schlag, "Scalable High-Quality Hypergraph Partitioning", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from partwise.errors import PlanError

Mask = npt.NDArray[np.bool_]
"""Which weights of a linear layer are not zero: (outputs, inputs)."""
Owners = npt.NDArray[np.int64]
"""The part (by index) that owns each output of a linear layer."""


def count_sent(masks: Sequence[Mask], owners: Sequence[Owners], num_parts: int) -> int:
    """The activations that cross between parts in one pass of one row.

    Each is sent once to every other part that reads it; inputs of the first layer and outputs
    of the last are the coordinator's.
    """
    num_sent = 0
    for mask, here, there in zip(masks[1:], owners, owners[1:], strict=False):
        for part in range(num_parts):
            is_read = mask[there == part].any(axis=0)
            num_sent += int(np.count_nonzero(is_read & (here != part)))
    return num_sent


def cut_neurons(
    masks: Sequence[Mask], num_parts: int, *, imbalance: float, seed: int
) -> list[Owners]:
    """Owners of every layer's outputs that send few activations.

    Parts hold equally many non-zero weights, up to the share ``imbalance``; over the whole
    chain, not in every layer. The same ``seed`` gives the same cut.

    Raises:
        PlanError: the partitioner is not installed.
    """
    edges = _list_edges(masks)
    weights = [max(1, int(row)) for mask in masks for row in mask.sum(axis=1)]
    library, initializer = _start_partitioner()
    library.set_seed(seed)
    context = initializer.context_from_preset(library.PresetType.DETERMINISTIC_QUALITY)
    context.set_partitioning_parameters(num_parts, imbalance, library.Objective.KM1)
    context.logging = False
    graph = initializer.create_hypergraph(
        context, len(weights), len(edges), edges, weights, [1] * len(edges)
    )
    owners = np.array(graph.partition(context).get_partition(), dtype=np.int64)
    bounds = np.cumsum([len(mask) for mask in masks])[:-1]
    return np.split(owners, bounds)


def _list_edges(masks: Sequence[Mask]) -> list[list[int]]:
    """The neurons of each hyperedge, counted over all layers."""
    edges = []
    first = 0
    for here, there in pairwise(masks):
        next_first = first + len(here)
        for neuron in range(len(here)):
            readers = np.flatnonzero(there[:, neuron])
            if readers.size:
                edges.append([first + neuron, *(next_first + readers).tolist()])
        first = next_first
    return edges


@cache
def _start_partitioner() -> tuple[Any, Any]:
    """The library and its one initialiser; one thread, so that a cut can be repeated."""
    try:
        import mtkahypar
    except ImportError as exc:
        raise PlanError(
            "the strategy 'connectivity' needs mtkahypar, which is not installed: run"
            " `pip install 'partwise[connectivity]'`"
        ) from exc
    return mtkahypar, mtkahypar.initialize(1, print_warnings=False)
