"""Readings of all parts' counters that were asked for and are not complete."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Sequence

from partwise.engine.plan_parts import PartLink
from partwise.remote.messages import Stats

Answer = queue.SimpleQueue[list[Stats]]


class Readings:
    """By the number of the question, who wants to know and what each part said. The engine's thread
    alone uses it, but for `number` and `give_up`."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[Answer, dict[str, Stats | None]]] = {}

    def number(self) -> int:
        """That of a new question."""
        return next(self._numbers)

    def begin(self, number: int, parts: Sequence[PartLink], answer: Answer) -> None:
        """All ``parts`` are asked."""
        self._asked[number] = (answer, dict.fromkeys([entry.part.name for entry in parts]))

    def begin_again(self, parts: Sequence[PartLink]) -> list[int]:
        """What is not complete is asked of these ``parts`` instead: the numbers."""
        for number, (answer, _) in list(self._asked.items()):
            self.begin(number, parts, answer)
        return list(self._asked)

    def take(self, part: str, stats: Stats) -> None:
        """``part`` said so; of what was asked too long ago nobody wants to know."""
        if stats.number not in self._asked:
            return
        answer, collected = self._asked[stats.number]
        collected[part] = stats
        complete = [found for found in collected.values() if found is not None]
        if len(complete) == len(collected):
            del self._asked[stats.number]
            answer.put(complete)

    def give_up(self, number: int) -> list[str]:
        """Nobody waits any more; the parts that said nothing."""
        _, collected = self._asked.pop(number, (None, {}))
        return [name for name, found in collected.items() if found is None]
