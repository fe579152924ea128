"""What parts count: their passes, their time, and what they send and receive. Values that travel.

All times are in nanoseconds and sums since the part was assigned.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec


class Counters(msgspec.Struct, kw_only=True):
    """Decode passes (one token a row). ``hop_ns`` sums how long ``hops`` frames were under way.

    ``compute_ns`` is without ``exchange_ns``, in which ``exchanged_bytes`` went to other members of
    the stage; ``sent_bytes`` went to other stages and the coordinator.
    """

    tokens: int = 0
    passes: int = 0
    compute_ns: int = 0
    wait_ns: int = 0
    hops: int = 0
    hop_ns: int = 0
    sent_bytes: int = 0
    exchange_ns: int = 0
    exchanged_bytes: int = 0


class TimeSpent(msgspec.Struct, kw_only=True):
    """The time of a part while sequences run, prompts too.

    ``compute_ns``, ``wait_ns`` and ``exposed_ns`` add up to it: computing; nothing to do, and
    nothing under way to this part either; communication that kept it from computing: its input
    was under way while it waited, or its thread received, packed, unpacked or sent.
    ``hidden_ns`` is communication under computing: input under way, and packing and unpacking on
    a thread beside it.
    """

    compute_ns: int = 0
    wait_ns: int = 0
    exposed_ns: int = 0
    hidden_ns: int = 0


class Traffic(msgspec.Struct, kw_only=True):
    """Tensors that a part sent to the next, or received from the one before.

    ``plain_bytes`` as computed, ``moved_bytes`` as they travelled; ``convert_ns`` packing or
    unpacking, of which ``beside_ns`` on a thread beside the one that computes.
    """

    frames: int = 0
    plain_bytes: int = 0
    moved_bytes: int = 0
    convert_ns: int = 0
    beside_ns: int = 0


class Exchanged(msgspec.Struct, kw_only=True):
    """What a member exchanged with the others of its stage, in so many ``calls`` for a sum or what
    all have. ``sent_bytes`` of tensors to all of them, as the plan predicts them; ``ns`` in all, of
    which ``wait_ns`` until what was sent was there."""

    calls: int = 0
    sent_bytes: int = 0
    ns: int = 0
    wait_ns: int = 0


Sums = TypeVar("Sums", Counters, TimeSpent, Traffic, Exchanged)


def subtract(now: Sums, before: Sums) -> Sums:
    """What came to the sums since ``before``."""
    names = now.__struct_fields__
    return type(now)(**{name: getattr(now, name) - getattr(before, name) for name in names})
