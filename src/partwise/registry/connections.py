"""The connections of one part to others: whom it calls, and whose it needs before it can serve."""

from __future__ import annotations

from partwise.registry.routes import Routes


def list_next(routes: Routes) -> tuple[str, ...]:
    """The parts to which it sends what it computes: members of the next stage, or from the leader
    of the last stage those of the first, for what is picked. Members of a stage that is both know
    by themselves."""
    if routes.source is None and routes.is_leader:
        return ()
    return (*(leg.part for leg in routes.targets), *routes.picks_for)


def list_called(routes: Routes) -> tuple[str, ...]:
    """The parts that it connects to: those it sends to, and of the other members of its stage
    those behind it in the plan. The ones before it call."""
    return (*list_next(routes), *routes.members[routes.index + 1 :])


def list_linked(routes: Routes) -> frozenset[str]:
    """The parts to which a link must stand, whoever called."""
    return frozenset((*list_next(routes), *routes.fellows))
