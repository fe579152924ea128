"""From which member of the stage before each member of a stage has the hidden state.

All of them hold the same bits, so one is enough. Whoever makes a plan chooses, by links that only
the planner knows; the plan says so by the order of its links, and who prices it and who runs it
read that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from partwise.distributor.plan import Link, Plan, Stage

FindSeconds = Callable[[str, str], float]
"""Seconds from a sender until a target has all of it."""


def choose_senders(
    senders: Sequence[str], targets: Sequence[str], find_s: FindSeconds | None = None
) -> list[str]:
    """Who sends to each of ``targets``, which choose in turn: each the fastest by ``find_s`` of
    the senders that send to fewest so far, of equals the first. None: all are equal."""
    if find_s is None:
        return [senders[i % len(senders)] for i in range(len(targets))]
    chosen: list[str] = []
    free: list[str] = []
    for target in targets:
        free = free or list(senders)
        ways = [find_s(name, target) for name in free]
        chosen.append(free.pop(ways.index(min(ways))))
    return chosen


def join_stages(before: Stage, after: Stage, find_s: FindSeconds | None = None) -> list[Link]:
    """The links from every member of a stage to every member of the next: first the one to each
    over which its hidden state comes. ``find_s`` is asked for names of parts."""
    sources, targets = ([member.part for member in stage.members] for stage in (before, after))
    chosen = list(zip(choose_senders(sources, targets, find_s), targets, strict=True))
    pairs = [(source, target) for source in sources for target in targets]
    return [
        Link(source=source, target=target) for source, target in dict.fromkeys((*chosen, *pairs))
    ]


def find_senders(plan: Plan) -> dict[str, str]:
    """By part the one from which it has the hidden state: the source of the first link to it.
    Parts of the first stage have none."""
    senders: dict[str, str] = {}
    for link in plan.links:
        senders.setdefault(link.target, link.source)
    return senders
