"""Two links over a channel in memory, driven by hand, and the frames sent over them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from partwise.remote.channel import MemoryChannel
from partwise.remote.frame import Frame, FrameKind, Row
from partwise.remote.link import Link

MAX_ROUNDS = 200_000


class Pair:
    """Two ends of one link. ``received`` holds what came in at each, unreleased."""

    def __init__(self, *, capacity: int = 1 << 20, seed: int | None = None) -> None:
        channels = MemoryChannel.pair(capacity=capacity, seed=seed)
        self.left, self.right = (
            Link(c, n) for c, n in zip(channels, ("right", "left"), strict=True)
        )
        self.received: dict[str, list[Frame]] = {"left": [], "right": []}

    def turn(self) -> None:
        """Let each end read what is there and write what it can, once."""
        for name, link in (("left", self.left), ("right", self.right)):
            self.received[name].extend(link.receive())
            link.flush()

    def pump(self, is_done: Callable[[], bool]) -> None:
        """Turn until ``is_done``; fails if that never comes."""
        for _ in range(MAX_ROUNDS):
            if is_done():
                return
            self.turn()
        raise AssertionError("the links are stuck")

    def settle(self) -> None:
        """Turn until surely nothing moves any more, whatever the channel's random portions."""
        for _ in range(300):
            self.turn()

    def close(self) -> None:
        self.left.close()
        self.right.close()


def data_frame(number: int, num_bytes: int) -> Frame:
    """A data frame whose contents follow from its number and size."""
    return Frame(
        kind=FrameKind.FORWARD,
        step=number,
        rows=(Row(number, 0, 1),),
        tensors=(contents(number, num_bytes),),
    )


def contents(number: int, num_bytes: int) -> np.ndarray:
    """What `data_frame` carries."""
    return np.arange(number, number + num_bytes, dtype=np.int64).astype(np.int8)


def control_frame(number: int, num_bytes: int) -> Frame:
    """A control frame whose message follows from its number and size."""
    return Frame(kind=FrameKind.CONTROL, step=number, message=control_message(number, num_bytes))


def control_message(number: int, num_bytes: int) -> bytes:
    """What `control_frame` carries."""
    return bytes([number % 251]) * num_bytes


def is_whole(frame: Frame, num_bytes: int) -> bool:
    """Whether a received frame holds what `data_frame` or `control_frame` put into it."""
    if frame.kind is FrameKind.CONTROL:
        return frame.message == control_message(frame.step, num_bytes)
    return np.array_equal(frame.tensors[0], contents(frame.step, num_bytes))
