"""What a line is: a command, how its outcome is decided, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol


class Status(StrEnum):
    """How a line stands."""

    MET = "met"
    NOT_MET = "NOT MET"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command left. ``folder`` also holds its stdout.txt and stderr.txt."""

    exit_code: int
    began_ns: int
    folder: Path

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout.txt").read_text(errors="replace")

    @property
    def last_words(self) -> str:
        """The last line of stderr, or else of stdout."""
        errors = (self.folder / "stderr.txt").read_text(errors="replace")
        lines = (errors.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else "it said nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision. ``figures`` are what was measured, one for each of the judge's bounds, or
    none; ``reason`` is why it is not met or not run."""

    status: Status
    figures: tuple[str, ...] = ()
    reason: str = ""


class Judge(Protocol):
    """Decides an outcome."""

    @property
    def bounds_text(self) -> tuple[str, ...]:
        """What is asked for, in short, one entry a figure."""

    def decide(self, outcome: Outcome) -> Verdict:
        """Whether ``outcome`` meets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of an issue.

    ``{folder}`` in the command is an empty folder of this attempt. A line of
    ``is_performance`` is repeated when it fails: other load on the machine disturbs it.
    """

    id: str
    text: str
    command: tuple[str, ...]
    judge: Judge
    limit_s: float
    is_performance: bool = False
    is_fresh_clone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a line."""

    status: Status
    figures: tuple[str, ...]
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All attempts at a line; the last one decides."""

    attempts: tuple[Attempt, ...]

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]

    @property
    def seconds(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def is_finished(self) -> bool:
        """Whether it need not run again: what was missing may be there the next time."""
        return self.last.status is not Status.NOT_RUN

    def describe(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "status": self.last.status,
            "figures": [attempt.figures for attempt in self.attempts],
            "reason": self.last.reason,
            "seconds": round(self.seconds, 1),
        }


def not_run(reason: str) -> Record:
    """The record of a line that could not be tried."""
    attempt = Attempt(status=Status.NOT_RUN, figures=(), reason=reason, seconds=0.0)
    return Record(attempts=(attempt,))
