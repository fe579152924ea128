"""Picks from a vocabulary whose rows the members of a stage share.

For each row that asks a member offers the best of its own logits; the logits themselves travel only
where a row wants them. Whatever computes them offers alike, so that members may differ in that.

Shapes: R rows that ask for a pick, V vocabulary, O own rows of it, M members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.model import LayerKind
from partwise.model.families.family import VOCABULARY_ROW
from partwise.part.exchange import Exchange
from partwise.part.finite import not_finite
from partwise.part.owned import Floats, find_owned_neurons
from partwise.part.runner import RunnerOptions
from partwise.registry.gathers import list_ids
from partwise.remote.frame import Row, RowFlag
from partwise.remote.layout import Array

NO_ID = np.iinfo(np.int64).max
"""What a member without rows offers: it loses against every id."""


class Candidates:
    """What a member offers: for each row that asks the best of its own logits, its id, and, where
    that is asked for, the logarithm of the sum of the exponentials of them all (``sums_R``).

    Made for a member without logits; fill them in. A logit that is NaN says that some are not
    finite: all members must learn of it, for they would wait for one that fails by itself.
    """

    def __init__(self, num_rows: int) -> None:
        # An id and two float32, so that one exchange carries them.
        self.packed_R2 = np.full((num_rows, 2), NO_ID)
        values_R2 = self.packed_R2[:, 1:].view(np.float32)
        values_R2[:] = -np.inf
        self.ids_R = self.packed_R2[:, 0]
        self.best_R, self.sums_R = values_R2[:, 0], values_R2[:, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedHead:
    """Who has which logits: ``ids`` (O) of each of ``parts``, ascending, in the order of the plan;
    ``where`` are the layers that they hold, for people."""

    exchange: Exchange
    parts: tuple[str, ...]
    ids: tuple[NDArray[np.int64], ...]
    where: str

    @property
    def own_ids(self) -> NDArray[np.int64]:
        """The vocabulary rows of this member's logits (O)."""
        return self.ids[self.exchange.index]

    def pick(
        self, offered: Candidates, logits_RO: Floats, rows: Sequence[Row], flags: RowFlag
    ) -> tuple[Array, ...]:
        """The picks of ``rows`` from the logits of all members, as `Runner.run` gives them: the
        same bits on each member. ``flags`` are what any row that asks wants.

        Raises:
            NotFinite: logits of some member are NaN or infinite; names it, on each of them.
        """
        packed_MR2 = np.stack(self.exchange.gather(offered.packed_R2))
        ids_MR = packed_MR2[:, :, 0].astype(np.int64)
        values_MR2 = np.ascontiguousarray(packed_MR2[:, :, 1:]).view(np.float32)
        best_MR, sums_MR = values_MR2[:, :, 0], values_MR2[:, :, 1]
        self._check(best_MR, rows)
        best_R = best_MR.max(axis=0)
        outputs: list[Array] = [np.where(best_MR == best_R, ids_MR, NO_ID).min(axis=0)]
        if flags & RowFlag.LOGPROB:
            sum_R = np.logaddexp.reduce(sums_MR.astype(np.float64), axis=0)
            outputs.append((best_R - sum_R).astype(np.float32))
        if flags & RowFlag.LOGITS:
            outputs.append(self._gather_logits(logits_RO))
        return tuple(outputs)

    def _check(self, best_MR: Floats, rows: Sequence[Row]) -> None:
        for part, ids, best_R in zip(self.parts, self.ids, best_MR, strict=True):
            if len(ids) and not np.isfinite(best_R).all():
                raise not_finite(part, self.where, rows)

    def _gather_logits(self, logits_RO: Floats) -> Array:
        """(R, V), in the order of the vocabulary."""
        logits_RV = np.empty((len(logits_RO), sum(map(len, self.ids))), np.float32)
        given = self.exchange.gather(np.ascontiguousarray(logits_RO))
        for ids, logits in zip(self.ids, given, strict=True):
            logits_RV[:, ids] = logits
        return logits_RV


def find_shared_head(options: RunnerOptions) -> SharedHead | None:
    """The head that the part shares with the other members of its stage; None if it does not."""
    stage = options.plan.stage_of(options.part)
    last = stage.stop - 1
    if options.exchange is None or options.model.layers[last].kind is not LayerKind.HEAD:
        return None
    parts = tuple(member.part for member in stage.members)
    owned = [find_owned_neurons(options.plan, part, last) for part in parts]
    if not owned[0].is_split(VOCABULARY_ROW):
        return None
    return SharedHead(
        exchange=options.exchange,
        parts=parts,
        ids=tuple(list_ids(own.by_kind[VOCABULARY_ROW]) for own in owned),
        where=options.model.describe_range(stage.start, stage.stop),
    )
