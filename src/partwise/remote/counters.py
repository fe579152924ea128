"""What parts count: their passes, their time, and what they send and receive. Values that travel.

All times are in nanoseconds and sums since the part was assigned.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec


class Counters(msgspec.Struct, kw_only=True):
    """Decode passes (one token a row). ``hop_ns`` sums how long ``hops`` frames were under way."""

    tokens: int = 0
    passes: int = 0
    compute_ns: int = 0
    wait_ns: int = 0
    hops: int = 0
    hop_ns: int = 0
    sent_bytes: int = 0


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


Sums = TypeVar("Sums", Counters, TimeSpent, Traffic)


def subtract(now: Sums, before: Sums) -> Sums:
    """What came to the sums since ``before``."""
    names = now.__struct_fields__
    return type(now)(**{name: getattr(now, name) - getattr(before, name) for name in names})
