"""What is to be done to a model's weights, checked, and the steps of the ladder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from partwise.distributor.plan import MAX_MLP_SPARSITY
from partwise.distributor.reduction import name_reduction
from partwise.errors import CompressionError

Method = Literal["rtn", "search", "gptq", "grid"]
METHODS: tuple[Method, ...] = ("rtn", "search", "gptq", "grid")
"""Round to nearest on the grid that spans each block; on the best of some; calibrated; on the grid
that the weights lie on already."""

LADDER_SPARSITIES = (0.1, 0.3, 0.5)
"""Of the sparsities that the distributor tries (0.1 to 0.9): beyond half a transformer's MLP units
little of it is left."""

DEFAULT_BLOCK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One step of compression.

    ``bits`` of a weight, 4 or 8, in blocks of ``block`` inputs (None: they stay fp32).
    ``method`` of None is the better of the two that need no calibration (docs/decisions/0030).
    ``mlp_sparsity`` is the share of its MLP units that each block loses, whole; where
    ``is_two_four``, two of four consecutive inputs of each output are zero instead.

    Raises:
        CompressionError: numbers out of range, or things that do not go together.
    """

    bits: int | None = None
    block: int = DEFAULT_BLOCK
    is_symmetric: bool = True
    method: Method | None = None
    mlp_sparsity: float = 0.0
    is_two_four: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.mlp_sparsity <= MAX_MLP_SPARSITY:
            raise CompressionError(
                f"a sparsity of {self.mlp_sparsity:g} is outside 0 to {MAX_MLP_SPARSITY}: it is the"
                f" share of MLP units to remove, give 0 to {MAX_MLP_SPARSITY}"
            )
        if self.bits not in (None, 4, 8):
            raise CompressionError(f"{self.bits} bits a weight: give 4 or 8")
        if self.bits is None and not (self.mlp_sparsity or self.is_two_four):
            raise CompressionError("nothing to do: ask for int8, int4 or a sparsity")
        if self.is_two_four and self.mlp_sparsity:
            raise CompressionError(
                "2:4 sparsity and removed MLP units are two versions: make one from the other"
            )
        if self.is_two_four and self.method == "gptq":
            raise CompressionError(
                "gptq would fill the zeros of 2:4 sparsity again: use the method search"
            )

    @property
    def rounding(self) -> Method:
        """The method that is used."""
        return self.method or ("search" if self.bits == 8 else "rtn")

    @property
    def precision(self) -> str:
        """As plans name it."""
        return f"int{self.bits}" if self.bits else "fp32"

    @property
    def step(self) -> str:
        """As plans name what layers were reduced to."""
        name = name_reduction(self.precision, self.mlp_sparsity)
        return f"{name}, 2:4 sparse" if self.is_two_four else name

    @property
    def label(self) -> str:
        """All of it in a line; the same for the same recipe."""
        if self.bits is None:
            return self.step
        symmetry = "symmetric" if self.is_symmetric else "asymmetric"
        return f"{self.step}, {self.rounding}, {symmetry} blocks of {self.block}"

    @property
    def needs_calibration(self) -> bool:
        """Whether it looks at activations."""
        return self.method == "gptq" or self.mlp_sparsity > 0 or self.is_two_four


def climb(recipe: Recipe) -> list[Recipe]:
    """The steps that the distributor takes where a layer must shrink, the gentlest first; block,
    symmetry and method are ``recipe``'s."""
    steps = [replace(recipe, bits=bits, mlp_sparsity=0.0) for bits in (8, 4)]
    return steps + [replace(recipe, bits=4, mlp_sparsity=s) for s in LADDER_SPARSITIES]
