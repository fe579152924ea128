"""How the weights of linear layers are held in a graph."""

from __future__ import annotations

from dataclasses import dataclass

BITS = {"int8": 8, "int4": 4}
BLOCK = 32
"""Consecutive inputs that share a scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """A precision; the rest means nothing in fp32. Why int8 is rounded otherwise than int4:
    docs/decisions/0030."""

    precision: str
    block: int = BLOCK

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is in the middle of every block's numbers."""
        return self.precision != "int8"

    @property
    def is_searched(self) -> bool:
        """Whether scales are searched for the least squared error; else they span the block."""
        return self.precision == "int8"

    @property
    def is_rounded(self) -> bool:
        return self.precision in BITS

    @property
    def bits(self) -> int:
        """Of a weight that is rounded."""
        return BITS[self.precision]
