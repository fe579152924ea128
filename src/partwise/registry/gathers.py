"""Which neurons' outputs travel from which part to which, where consumers need only some.

Compiled once per plan_version: who sends pushes, and nobody asks. It knows no layer and no kind:
ids are those of one layer's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from partwise.errors import PlanError

Ids = NDArray[np.int64]
Neurons = Sequence[int] | Sequence[tuple[int, int]] | Ids
"""Ids in any order, or half-open ranges."""


def compile_gathers(
    owners: Mapping[str, Neurons], needs: Mapping[str, Neurons]
) -> dict[tuple[str, str], Ids]:
    """For each (source, target) the ids to send, ascending; pairs without any are left out.

    ``owners`` says which output neurons each part has, ``needs`` which each consumer reads. What
    a target has itself is not sent to it. An id that several have comes from one of them: targets
    take turns, in the order of ``needs``, as they do over hops.

    Raises:
        PlanError: an id is needed that nobody has, with the part that needs it.
    """
    held = {part: list_ids(neurons) for part, neurons in owners.items()}
    parts = list(held)
    ids = np.concatenate([*held.values(), np.empty(0, np.int64)])
    holders = np.repeat(np.arange(len(parts)), [len(found) for found in held.values()])
    order = np.argsort(ids, kind="stable")  # of one id, holders in the order of ``owners``
    ids, holders = ids[order], holders[order]
    gathers: dict[tuple[str, str], Ids] = {}
    for turn, (target, neurons) in enumerate(needs.items()):
        wanted = list_ids(neurons)
        if target in held:
            wanted = np.setdiff1d(wanted, held[target], assume_unique=True)
        first = np.searchsorted(ids, wanted, side="left")
        num_holders = np.searchsorted(ids, wanted, side="right") - first
        if not num_holders.all():
            missing = int(wanted[num_holders == 0][0])
            raise PlanError(
                f"part {target!r} needs neuron {missing}, which no part has: give it to one"
            )
        chosen = holders[first + turn % num_holders]
        for holder in np.unique(chosen):
            gathers[parts[holder], target] = wanted[chosen == holder]
    return gathers


def list_ids(neurons: Neurons) -> Ids:
    """The ids of ``neurons``, ascending, each once."""
    table = np.asarray(neurons, np.int64)
    if table.ndim == 2:
        listed = [np.arange(start, stop, dtype=np.int64) for start, stop in table.tolist()]
        table = np.concatenate(listed)
    return np.unique(table)
