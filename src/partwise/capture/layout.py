"""Who has which neurons of a value, and what a member computes of an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from partwise.capture.graph import Node, TensorSpec
from partwise.capture.values import Values
from partwise.capture.weighted import Weighted
from partwise.registry.gathers import Ids

WHOLE = np.zeros(1, np.int64)
"""The ids of a value that has no neurons: it is one, as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The ids of a value by the part that computes them, ascending: of ``count`` along ``axis``;
    without an axis it is whole on each of these parts."""

    axis: int | None = None
    count: int = 1
    held: Mapping[str, Ids]

    @property
    def every(self) -> Ids:
        """All ids."""
        return np.arange(self.count, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """The neurons ``ids`` along ``axis`` of a value that an operation reads, ascending."""

    axis: int
    ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one member computes: the neurons ``outputs`` of the result of ``node``.

    Of the values in ``wants`` it reads these neurons, of others all; of the states in ``slices``
    the elements at these ids along these axes. No ``wants`` at all, and None for ``outputs``: it
    computes the node whole.
    """

    node: Node
    outputs: Ids | None = None
    wants: Mapping[str, Want] = field(default_factory=dict)
    slices: Mapping[str, Sequence[tuple[int, Ids]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """An operation spread over members: each computes other neurons along ``axis``."""

    axis: int
    count: int
    shares: Mapping[str, Share]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an operation is to be computed.

    The ``members`` of its stage, the ``layouts`` of the values before it, and which neurons of its
    layer, of ``kind``, each member ``owned`` (None: not split). ``heads`` are the operations of
    attention that is written out; ``reads(weight, axis, ids)`` are the inputs that the outputs
    ``ids`` read (None: all).
    """

    values: Values
    members: tuple[str, ...]
    layouts: Mapping[str, Layout]
    owned: Mapping[str, Ids] | None
    kind: str
    reads: Callable[[str, int, Ids], Ids | None]
    heads: Mapping[str, Weighted] = field(default_factory=dict)

    def find_split(self, name: str) -> Layout | None:
        """The layout of a value whose neurons these members have among them; None of others."""
        layout = self.layouts[name]
        is_split = layout.axis is not None and set(layout.held) == set(self.members)
        return layout if is_split else None

    def spec(self, name: str) -> TensorSpec:
        """The tensor that a value is."""
        spec = self.values.spec(name)
        assert spec is not None
        return spec
