"""What entries of ``--ids`` say of the same neurons: the later one wins, and that is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from partwise.errors import PlanError

if TYPE_CHECKING:
    from partwise.model.description import Model


def list_overlaps(model: Model, ids: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each entry of `lists.read_ids` that replaces an earlier one in some layers."""
    seen: list[tuple[str, str, set[int]]] = []
    lines = []
    for selector, by_kind in ids.items():
        layers = _select(model, selector)
        for kind in by_kind:
            lines += [
                f"--ids {selector}/{kind} replaces {other}/{kind} in {_count(layers & its)}:"
                " the later entry wins"
                for other, same, its in seen
                if same == kind and layers & its
            ]
            seen.append((selector, kind, layers))
    return lines


def _select(model: Model, selector: str) -> set[int]:
    from partwise.distributor.by_ids import select_layers

    try:
        return {i for i in select_layers(model, selector) if model.layers[i].neuron_kinds}
    except PlanError:  # the strategy says why
        return set()


def _count(layers: set[int]) -> str:
    return f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"
