"""What the members of a stage ask of each other while they compute a pass.

How it travels is `members.py`'s; a part that is alone in its stage exchanges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from partwise.remote.layout import Array

Floats = NDArray[np.float32]


class Exchange(Protocol):
    """The members of one stage, as a runner sees them.

    All members call the same methods in the same order in each pass: what is called depends on
    the plan, the model and the rows alone. ``index`` is this member's place among
    ``num_members``, in the order of the plan.
    """

    num_members: int
    index: int

    def sum(self, partial: Floats) -> Floats:
        """The sum of every member's ``partial``, float32 (N, W) and contiguous: the same bits on
        each of them. It may be changed; it is good until the next call. Blocks.

        Raises:
            DeadlineExceeded: a member did not send its own in time; names it.
            RemoteError: a member went away.
        """
        ...

    def gather(self, own: Array) -> Sequence[Array]:
        """What every member gave, in the order of the plan: of one dtype and rank, of any shapes.
        Good until the next call. Blocks, and raises as `sum`."""
        ...
