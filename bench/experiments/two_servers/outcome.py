"""What was measured of one point beside what was predicted, and where a choice changes over."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.two_servers.cases import Condition, Layout
from harness import Spread, spread

Seconds = Callable[["Outcome"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Seconds between two tokens of a stream, by rounds and as the cost model says."""

    case: str
    layout: Layout
    streams: int
    condition: Condition
    token_s: tuple[float, ...]
    predicted_s: float

    @property
    def measured(self) -> Spread:
        return spread(self.token_s)

    @property
    def error(self) -> float:
        """Of the predicted time a token."""
        return self.predicted_s / self.measured.median - 1

    @property
    def tokens_per_s(self) -> float:
        """Over all streams."""
        return self.streams / self.measured.median


def take_measured(outcome: Outcome) -> float:
    return outcome.measured.median


def take_predicted(outcome: Outcome) -> float:
    return outcome.predicted_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One model with so many streams: every layout under every condition."""

    case: str
    streams: int
    outcomes: tuple[Outcome, ...]

    @property
    def conditions(self) -> list[Condition]:
        """Of the link, in the order in which they were measured."""
        two = (o.condition for o in self.outcomes if o.layout is not Layout.ONE)
        return list(dict.fromkeys(two))

    @property
    def bandwidths(self) -> list[float | None]:
        return list(dict.fromkeys(condition.mbit_per_s for condition in self.conditions))

    def find(self, layout: Layout, condition: Condition) -> Outcome:
        """One server is the same under every condition."""
        return next(
            o
            for o in self.outcomes
            if o.layout is layout and (layout is Layout.ONE or o.condition == condition)
        )

    def choose(self, condition: Condition, seconds: Seconds) -> Layout:
        """The layout with the least time a token."""
        return min(Layout, key=lambda layout: seconds(self.find(layout, condition)))

    def is_wrong(self, condition: Condition) -> bool:
        """Whether the layout that is predicted best is measured to be slower than another, with
        the quartiles of both."""
        chosen = self.find(self.choose(condition, take_predicted), condition)
        best = self.find(self.choose(condition, take_measured), condition)
        return chosen.measured.low > best.measured.high

    def find_delay_ms(
        self, mbit_per_s: float | None, rival: Layout, seconds: Seconds
    ) -> float | None:
        """The one-way delay up to which neurons are faster than ``rival`` over such a link: 0,
        never; None, under every delay measured. Between two of them times are linear."""
        conditions = [c for c in self.conditions if c.mbit_per_s == mbit_per_s]
        places = {condition.delay_ms: condition for condition in conditions}
        return find_crossing(self._list_lacks(places, rival, seconds))

    def find_mbit_per_s(self, rival: Layout, seconds: Seconds) -> float | None:
        """The bandwidth from which on neurons are faster than ``rival`` without delay: infinite,
        never; None, at every bandwidth measured. Between two of them times are linear in the
        seconds that a bit takes; over loopback it takes none."""
        conditions = [c for c in self.conditions if not c.delay_ms]
        places = {1 / (c.mbit_per_s or math.inf): c for c in conditions}
        slowness = find_crossing(self._list_lacks(places, rival, seconds))
        if slowness is None:
            return None
        return 1 / slowness if slowness else math.inf

    def _list_lacks(
        self, places: Mapping[float, Condition], rival: Layout, seconds: Seconds
    ) -> list[tuple[float, float]]:
        """By ascending places, how many seconds a token neurons take more than ``rival``."""
        return [
            (place, seconds(self.find(Layout.NEURONS, c)) - seconds(self.find(rival, c)))
            for place, c in sorted(places.items(), key=lambda pair: pair[0])
        ]


def find_crossing(lacks: Sequence[tuple[float, float]]) -> float | None:
    """Where a quantity given at ascending places first rises above 0, linear between two of
    them: the first place if it is above there already, None if it never is."""
    if lacks[0][1] > 0:
        return lacks[0][0]
    for (left, below), (right, above) in pairwise(lacks):
        if above > 0:
            return left + (right - left) * -below / (above - below)
    return None


def group(outcomes: Sequence[Outcome]) -> list[Series]:
    """The outcomes by model and streams."""
    keys = dict.fromkeys((o.case, o.streams) for o in outcomes)
    return [
        Series(
            case=case,
            streams=streams,
            outcomes=tuple(o for o in outcomes if (o.case, o.streams) == (case, streams)),
        )
        for case, streams in keys
    ]
