"""Frames that a part took and does not compute yet, and which of them is next: pure."""

from __future__ import annotations

from typing import Protocol

from partwise.part.picked import PickedTokens
from partwise.remote.frame import Frame

Next = tuple[Frame, tuple[tuple[int, int], ...]]
"""A frame to be computed, and the tokens of it that were picked: (index, token)."""


class Backlog(Protocol):
    """Frames in the order of a part alone (`FirstReady`) or of all members of a stage
    (`ByStep`)."""

    def __len__(self) -> int: ...

    def add(self, frame: Frame) -> None:
        """``frame`` was taken."""
        ...

    def knows(self, frame: Frame) -> bool:
        """Whether it is known by its step alone to have been taken before."""
        ...

    def pop(self, picked: PickedTokens | None) -> Next | None:
        """The frame to be computed now, if any may be. None for ``picked``: no token of a frame
        is still to be picked."""
        ...

    @property
    def last_step(self) -> int:
        """The last step that was taken, of those before which none is known to lack; 0: none."""
        ...

    @property
    def waits_for_picks(self) -> bool:
        """Whether, as nothing is computed, frames wait for tokens that are still to be picked."""
        ...

    def list_frames(self) -> list[Frame]:
        """All of them."""
        ...


class FirstReady:
    """The first frame whose tokens are known, unless it would overtake one of its sequences."""

    def __init__(self) -> None:
        self.last_step = 0
        self._frames: list[Frame] = []

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: Frame) -> None:
        """See `Backlog.add`."""
        self._frames.append(frame)
        self.last_step = max(self.last_step, frame.step)

    def knows(self, frame: Frame) -> bool:
        """See `Backlog.knows`: its rows must say."""
        return False

    def pop(self, picked: PickedTokens | None) -> Next | None:
        """See `Backlog.pop`."""
        passed: set[int] = set()
        for index, frame in enumerate(self._frames):
            tokens = picked.find(frame.rows) if picked is not None else ()
            if tokens is not None and passed.isdisjoint([row.sequence for row in frame.rows]):
                del self._frames[index]
                return frame, tokens
            passed.update([row.sequence for row in frame.rows])
        return None

    @property
    def waits_for_picks(self) -> bool:
        """See `Backlog.waits_for_picks`."""
        return bool(self._frames)

    def list_frames(self) -> list[Frame]:
        """See `Backlog.list_frames`."""
        return self._frames.copy()


class ByStep:
    """Every step from the first in its turn, none left out: the members of a stage wait for each
    other in each, so that all must compute them in one order."""

    def __init__(self, first_step: int = 1) -> None:
        self._frames: dict[int, Frame] = {}
        self._next_step = first_step

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: Frame) -> None:
        """See `Backlog.add`."""
        self._frames[frame.step] = frame

    def knows(self, frame: Frame) -> bool:
        """See `Backlog.knows`."""
        return frame.step < self._next_step or frame.step in self._frames

    def pop(self, picked: PickedTokens | None) -> Next | None:
        """See `Backlog.pop`."""
        frame = self._frames.get(self._next_step)
        tokens = picked.find(frame.rows) if frame is not None and picked is not None else ()
        if frame is None or tokens is None:
            return None
        del self._frames[self._next_step]
        self._next_step += 1
        return frame, tokens

    @property
    def last_step(self) -> int:
        """See `Backlog.last_step`."""
        step = self._next_step
        while step in self._frames:
            step += 1
        return step - 1

    @property
    def waits_for_picks(self) -> bool:
        """See `Backlog.waits_for_picks`: else it is a step that did not come."""
        return self._next_step in self._frames

    def list_frames(self) -> list[Frame]:
        """See `Backlog.list_frames`."""
        return list(self._frames.values())
