"""What mixtures of experts share: a router, and MLPs of which it chooses a few for each token.

Files hold experts one by one, each matrix a tensor of its own; it belongs to one neuron whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from partwise.errors import DamagedModel
from partwise.model.description import NeuronAxis, NeuronKind, Parameter
from partwise.model.families.family import EXPERT, Config
from partwise.model.families.stored import StoredTensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The router and the experts of one block.

    ``names`` are what an expert's gate, up and down projections are called, ``stored`` and
    ``module`` what goes before router and experts in the names of files and of the module.
    """

    num_experts: int
    num_chosen: int
    hidden: int
    intermediate: int
    names: tuple[str, str, str]
    module: str
    stored: str

    @property
    def kind(self) -> NeuronKind:
        return NeuronKind(name=EXPERT, count=self.num_experts, num_chosen=self.num_chosen)

    def describe(self, tensors: StoredTensors) -> list[Parameter]:
        """The parameters of the router and of each expert. The router has no neurons: every member
        of a stage routes all tokens.

        Raises:
            DamagedModel: a tensor is missing or has another shape.
        """
        shape = (self.num_experts, self.hidden)
        return [
            self._take(tensors, "gate.weight", shape),
            *(p for number in range(self.num_experts) for p in self._expert(tensors, number)),
        ]

    def _expert(self, tensors: StoredTensors, number: int) -> list[Parameter]:
        inner = self.intermediate
        outward = NeuronAxis(kind=EXPERT, axis=0, width=inner, first=number)
        inward = NeuronAxis(kind=EXPERT, axis=1, width=inner, first=number)
        gate, up, down = (f"experts.{number}.{name}.weight" for name in self.names)
        return [
            self._take(tensors, gate, (inner, self.hidden), outward),
            self._take(tensors, up, (inner, self.hidden), outward),
            self._take(tensors, down, (self.hidden, inner), inward),
        ]

    def _take(
        self, tensors: StoredTensors, name: str, shape: tuple[int, int], *neurons: NeuronAxis
    ) -> Parameter:
        stored = f"{self.stored}.{name}" if self.stored != self.module else None
        return tensors.take(f"{self.module}.{name}", shape, *neurons, stored=stored)


def read_chosen(config: Config, num_experts: int, default: int) -> int:
    """How many experts compute a token.

    Raises:
        DamagedModel: more than there are.
    """
    num_chosen = config.size("num_experts_per_tok", default)
    if num_chosen > num_experts:
        raise DamagedModel(
            f"config.json has num_experts_per_tok = {num_chosen}, but there are {num_experts}"
            " experts: download it again"
        )
    return num_chosen
