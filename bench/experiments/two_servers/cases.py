"""What is compared: models, layouts of them over servers, and conditions of the link."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness import SMOLLM2
from random_llama import ensure_random_llama


class Layout(StrEnum):
    """How a model lies on servers."""

    ONE = "one server"
    LAYERS = "layers"
    NEURONS = "neurons"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The link between two servers: so many bits a second each way (None: whatever this machine
    carries), each of which takes ``delay_ms`` to get there."""

    mbit_per_s: float | None = None
    delay_ms: float = 0.0

    @property
    def bandwidth(self) -> str:
        """For people."""
        return "loopback" if self.mbit_per_s is None else f"{self.mbit_per_s:g} Mbit/s"


FREE = Condition()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model at a precision, and under which conditions with how many streams it is measured."""

    name: str
    path: Path
    precision: str
    streams: tuple[int, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing that is measured."""

    case: Case
    layout: Layout
    streams: int
    condition: Condition


BANDWIDTHS: tuple[float | None, ...] = (10.0, 100.0, 1000.0, None)
"""In Mbit/s."""
DELAYS_MS = (0.0, 1.0, 5.0, 20.0, 50.0)
FEW_BANDWIDTHS: tuple[float | None, ...] = (100.0, None)
FEW_DELAYS_MS = (0.0, 0.5, 1.0, 5.0)


def cross(bandwidths: Sequence[float | None], delays_ms: Sequence[float]) -> tuple[Condition, ...]:
    """All conditions of some bandwidths and delays."""
    return tuple(
        Condition(mbit_per_s=mbit_per_s, delay_ms=delay_ms)
        for mbit_per_s, delay_ms in itertools.product(bandwidths, delays_ms)
    )


def list_cases() -> list[Case]:
    """SmolLM2 everywhere, in the precision in which neurons may pay; a larger model where the
    choice changes over."""
    return [
        Case(
            name="SmolLM2-135M, fp32",
            path=SMOLLM2,
            precision="fp32",
            streams=(1, 8),
            conditions=cross(BANDWIDTHS, DELAYS_MS),
        ),
        Case(
            name="random llama 1B, int8",
            path=ensure_random_llama(),
            precision="int8",
            streams=(1,),
            conditions=cross(FEW_BANDWIDTHS, FEW_DELAYS_MS),
        ),
    ]


def list_points(case: Case, layout: Layout) -> list[Point]:
    """Those of one layout; one server has no link, and is measured once."""
    conditions = (FREE,) if layout is Layout.ONE else case.conditions
    return [
        Point(case=case, layout=layout, streams=streams, condition=condition)
        for streams in case.streams
        for condition in conditions
    ]
