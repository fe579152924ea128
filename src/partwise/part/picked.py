"""The tokens that the last part picked, at the first part, for rows that go on with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array

_PICK, _FOLLOWS = int(RowFlag.PICK), int(RowFlag.FOLLOWS)


class PickedTokens:
    """For each sequence the last token that was picked, and the position where it belongs."""

    def __init__(self) -> None:
        self._tokens: dict[int, tuple[int, int]] = {}

    def note(self, rows: Iterable[Row], ids: Iterable[int]) -> None:
        """``ids`` were picked for those of ``rows`` that ask for a pick. What was told before is
        no news: a later pick stays."""
        asking = [row for row in rows if row.flags & _PICK]
        for row, token in zip(asking, ids, strict=True):
            position = row.position + row.num_tokens
            if position > self._tokens.get(row.sequence, (0, 0))[0]:
                self._tokens[row.sequence] = (position, token)

    def find(self, rows: Sequence[Row]) -> tuple[tuple[int, int], ...] | None:
        """Which of the pass's tokens are picked ones: (index, token); None while one is still to
        be picked."""
        found = []
        index = 0
        for row in rows:
            if row.flags & _FOLLOWS:
                position, token = self._tokens.get(row.sequence, (-1, 0))
                if position != row.position:
                    return None
                found.append((index, token))
            index += row.num_tokens
        return tuple(found)

    def forget(self, sequence: int) -> None:
        """``sequence`` is released."""
        self._tokens.pop(sequence, None)


def fill_in(ids_N: Array, picked: Iterable[tuple[int, int]]) -> Array:
    """The tokens of a pass with those that `PickedTokens.find` found."""
    filled_N = ids_N.copy()
    for index, token in picked:
        filled_N[index] = token
    return filled_N
