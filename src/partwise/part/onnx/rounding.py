"""How the weights of linear layers are held in a graph."""

from __future__ import annotations

from dataclasses import dataclass

BITS = {"int8": 8, "int4": 4}
BLOCK = 32
"""Consecutive inputs that share a scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """A precision; ``block`` and ``is_symmetric`` mean nothing in fp32."""

    precision: str
    block: int = BLOCK
    is_symmetric: bool = True

    @property
    def is_rounded(self) -> bool:
        return self.precision in BITS

    @property
    def bits(self) -> int:
        """Of a weight that is rounded."""
        return BITS[self.precision]
