"""What happens to a part, and what it does about it: the words of `machine.py` and `server.py`."""

from __future__ import annotations

import msgspec
import numpy as np

from partwise.remote.frame import Frame
from partwise.remote.layout import Array


class Assigned(msgspec.Struct, frozen=True, kw_only=True):
    """Event: the coordinator gave this server a part of the plan.

    It is one of ``num_members`` of its stage; several compute all steps from 1 on in one order.
    Its frames carry one tensor of shape (tokens, *input_widths): ids in the first stage. It
    travels as one of ``input_codecs`` says. Of the last stage one member, ``is_leader``, answers
    the coordinator, and tells those of the first what was picked: ids below ``vocab_size``.
    """

    part: str
    plan_version: int
    is_first: bool
    is_last: bool
    num_members: int = 1
    is_leader: bool = True
    input_dtype: np.dtype[np.generic]
    input_widths: tuple[int, ...]
    input_codecs: frozenset[str] = frozenset({"fp32"})
    vocab_size: int = 1 << 31


class LoadDone(msgspec.Struct, frozen=True):
    """Event: the weights are in memory."""


class Joined(msgspec.Struct, frozen=True):
    """Event: the links to all parts that it sends to stand; the first stage comes after the last,
    and a part alone needs none."""


class Spanned(msgspec.Struct, frozen=True):
    """Event: only the steps ``start:stop`` are of this plan; before any is said all are."""

    start: int
    stop: int


class Received(msgspec.Struct, frozen=True):
    """Event: a data frame came in."""

    frame: Frame


class Computed(msgspec.Struct, frozen=True):
    """Event: the runner finished a frame."""

    frame: Frame
    outputs: tuple[Array, ...]


class Released(msgspec.Struct, frozen=True):
    """Event: the coordinator is done with these sequences, of which no step after ``step`` has a
    row."""

    sequences: tuple[int, ...]
    step: int = 0


class Broken(msgspec.Struct, frozen=True):
    """Event: the assignment cannot go on."""


class Unassigned(msgspec.Struct, frozen=True):
    """Event: the coordinator went away."""


Event = (
    Assigned | LoadDone | Joined | Spanned | Received | Computed | Released | Broken | Unassigned
)


class Load(msgspec.Struct, frozen=True):
    """Action: load the assigned part."""


class Compute(msgspec.Struct, frozen=True):
    """Action: run the frame through the runner, then report `Computed`. ``picked`` are tokens
    that it lacks: (index, token)."""

    frame: Frame
    picked: tuple[tuple[int, int], ...] = ()


class Push(msgspec.Struct, frozen=True):
    """Action: send the frame to the next part, or the result to the coordinator."""

    frame: Frame
    to_coordinator: bool


class Consume(msgspec.Struct, frozen=True):
    """Action: the received frame is done with: its buffer goes back to its link."""

    frame: Frame


class Refuse(msgspec.Struct, frozen=True):
    """Action: tell the coordinator that a frame was not taken, and why."""

    frame: Frame
    reason: str


class Forget(msgspec.Struct, frozen=True):
    """Action: free the KV cache of these sequences."""

    sequences: tuple[int, ...]


class Reset(msgspec.Struct, frozen=True):
    """Action: drop the runner and every link of the assignment."""


Action = Load | Compute | Push | Consume | Refuse | Forget | Reset
