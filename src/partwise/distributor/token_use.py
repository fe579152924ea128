"""What one token uses of what somebody holds of a layer, some of whose neurons a router may choose
for each token.

Which it chooses depends on the text. Counted is the average where all are chosen equally often;
that members of a stage wait for the one with most of those chosen is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from partwise.model.description import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUse:
    """Of what is held of a layer: elements that every token reads and multiplies with, and
    elements of neurons to choose from, of which a token uses ``num_chosen`` in ``num_choices``."""

    every_read_elements: int
    every_macs: int
    choice_elements: int
    num_chosen: int = 1
    num_choices: int = 1

    @property
    def read_elements(self) -> int:
        """What one token reads."""
        return self.every_read_elements + self._chosen_elements

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one token."""
        return self.every_macs + self._chosen_elements

    @property
    def _chosen_elements(self) -> int:
        return self.choice_elements * self.num_chosen // self.num_choices


def measure_use(layer: Layer, num_held: int, counts: Mapping[str, int]) -> TokenUse:
    """What a token uses of ``layer`` where somebody holds ``num_held`` of its elements and owns
    ``counts`` neurons, by kind (a kind that is not named: all). What every token uses is in
    proportion to the elements held."""
    kind = layer.chosen_kind
    total = held = 0
    num_chosen = num_choices = 1
    if kind is not None:
        parameters = (p for p in layer.parameters if p.neurons and p.neurons[0].kind == kind.name)
        total = sum(p.num_elements for p in parameters)
        held = total // kind.count * counts.get(kind.name, kind.count)
        num_chosen, num_choices = kind.num_chosen or 0, kind.count
    chosen = total * num_chosen // num_choices
    every_held, every = num_held - held, max(layer.num_elements - total, 1)
    return TokenUse(
        every_read_elements=(layer.read_elements_per_token - chosen) * every_held // every,
        every_macs=(layer.macs_per_token - chosen) * every_held // every,
        choice_elements=held,
        num_chosen=num_chosen,
        num_choices=num_choices,
    )
