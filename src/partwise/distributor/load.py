"""What one layer asks of a part that holds it, whole or by its share of the neurons.

Counts only; what they cost is in `footprint.py` (memory) and `speed.py` (time).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from partwise.distributor.holding import count_held, keep_units
from partwise.distributor.token_use import measure_use
from partwise.distributor.workload import Workload
from partwise.model.description import Layer, LayerKind
from partwise.model.families.family import EXPERT, KV_GROUP, MLP_UNIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Counts for one layer.

    ``pass_read_elements`` are read once a pass, ``row_read_elements`` for every row of it (a
    table that is looked up), of ``choice_elements`` what a row chooses, which is ``choice_share``.
    ``query_width`` and ``mlp_width`` are elements a row.
    """

    weight_elements: int
    pass_read_elements: int
    row_read_elements: int
    choice_elements: int
    choice_share: float
    macs_per_row: int
    kv_elements: int
    query_width: int
    mlp_width: int

    def read_bytes(self, workload: Workload, rows: int) -> float:
        """Bytes that one pass of ``rows`` decoding rows reads: weights, and each row's past,
        which is half of the context on average. Rows choose independently of each other: experts
        that several of them choose are read once."""
        elements = self.pass_read_elements + rows * self.row_read_elements
        if self.choice_elements:
            elements += round(self.choice_elements * (1 - (1 - self.choice_share) ** rows))
        return elements * workload.element_bytes + rows * self._past_bytes(workload)

    def working_set_bytes(self, workload: Workload) -> float:
        """Bytes that are read again and again while all streams decode: of experts all, for
        tokens choose ever others."""
        elements = self.pass_read_elements + workload.streams * self.row_read_elements
        elements += self.choice_elements
        past_bytes = workload.streams * self._past_bytes(workload)
        return elements * workload.element_bytes + past_bytes

    def macs(self, workload: Workload) -> float:
        """Multiply-accumulates of one row, attention over half of the context included."""
        # Scores and their sum over values: twice the query width for each token of the past.
        return self.macs_per_row + self.query_width * workload.context_tokens

    def _past_bytes(self, workload: Workload) -> float:
        if workload.is_training:
            return 0.0
        return self.kv_elements * workload.kv_element_bytes * workload.context_tokens / 2


def measure_layer(layer: Layer, mlp_sparsity: float = 0.0) -> Load:
    """What ``layer`` asks of the part that holds all that is left of it."""
    if not mlp_sparsity:
        return _build(layer, layer.num_elements, {})
    num_held = sum(count_held(p, {}, mlp_sparsity) for p in layer.parameters)
    return measure_share(layer, num_held, {}, mlp_sparsity)


def measure_share(
    layer: Layer, num_held: int, counts: Mapping[str, int], mlp_sparsity: float = 0.0
) -> Load:
    """What ``layer`` asks of a member that holds ``num_held`` of its elements and owns
    ``counts`` neurons, by kind (a kind that is not named: all)."""
    if mlp_sparsity:
        left = {
            kind.name: keep_units(counts.get(kind.name, kind.count), mlp_sparsity)
            for kind in layer.neuron_kinds
            if kind.name == MLP_UNIT
        }
        counts = {**counts, **left}
    return _build(layer, num_held, counts)


def _build(layer: Layer, num_held: int, counts: Mapping[str, int]) -> Load:
    """Reads and arithmetic in proportion to the elements held, widths to the neurons."""
    groups = next((kind.count for kind in layer.neuron_kinds if kind.name == KV_GROUP), 0)
    held_groups, num_groups = counts.get(KV_GROUP, groups), max(groups, 1)
    # A KV group's widest slice is that of its queries.
    widths = [a.width for p in layer.parameters for a in p.neurons if a.kind == KV_GROUP]
    use = measure_use(layer, num_held, counts)
    reads = use.every_read_elements
    is_table = layer.kind is LayerKind.EMBEDDING
    return Load(
        weight_elements=num_held,
        pass_read_elements=0 if is_table else reads,
        row_read_elements=reads if is_table else 0,
        choice_elements=use.choice_elements,
        choice_share=use.num_chosen / use.num_choices,
        macs_per_row=use.macs,
        kv_elements=layer.kv_elements_per_token * held_groups // num_groups,
        query_width=held_groups * max(widths, default=0),
        mlp_width=_find_mlp_width(layer, counts),
    )


def _find_mlp_width(layer: Layer, counts: Mapping[str, int]) -> int:
    """Units of the MLP that compute a row: those owned, or all of the experts that it chooses, as
    far as they are owned."""
    for kind in layer.neuron_kinds:
        owned = counts.get(kind.name, kind.count)
        if kind.name == MLP_UNIT:
            return owned
        if kind.name == EXPERT:
            widths = (a.width for p in layer.parameters for a in p.neurons if a.kind == EXPERT)
            return min(owned, kind.num_chosen or owned) * max(widths)
    return 0
