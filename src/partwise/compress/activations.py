"""What compression wants to know of a model's activations, whoever computes them.

Shapes: I inputs of a matrix, N calibration tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]
"""The parameters of one layer by name, in the shapes that the model gives them."""


class Activations(Protocol):
    """Calibration text on its way through a model, layer by layer, in order.

    One layer is in memory at a time, and the states of the text before it.
    """

    def moments(self, index: int, weights: Weights) -> dict[str, NDArray[np.float64]]:
        """For each matrix of layer ``index`` ``X^T X / N`` (I, I) of its inputs, by the name of
        its parameter. The text stays before the layer."""
        ...

    def advance(self, index: int, weights: Weights) -> None:
        """Take the text through layer ``index`` with ``weights``."""
        ...
