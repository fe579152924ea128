"""The parts of one plan, each with the coordinator's link to its server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from partwise.distributor.plan import Part, Plan
from partwise.registry.connections import list_called, list_linked
from partwise.registry.routes import Routes
from partwise.remote.link import Link
from partwise.remote.messages import Connect, Loaded, SetClock
from partwise.remote.transport import Address


@dataclass(slots=True, eq=False)
class PartLink:
    """One part and the coordinator's link to its server. ``unlinked`` are the parts to which it
    still needs a link; ``clock_offset_ns`` is how far the server's clock is ahead of ours."""

    part: Part
    routes: Routes
    link: Link
    loaded: Loaded | None = None
    unlinked: set[str] = field(default_factory=set)
    done_bytes: int = 0
    total_bytes: int = 0
    clock_offset_ns: int = 0
    best_round_trip_ns: int = 1 << 62


class PlanParts:
    """All parts of ``plan``, in stage order. A value, but for what its `PartLink`s collect.

    ``first`` are those of the first stage's members; ``leader`` speaks for the last stage.
    """

    def __init__(self, plan: Plan, parts: Sequence[PartLink]) -> None:
        self.plan = plan
        self.plan_version = plan.plan_version
        self.all = tuple(parts)
        self.first = tuple(entry for entry in parts if entry.routes.source is None)
        self.leader = next(entry for entry in parts if entry.routes.is_leader)

    def find(self, link: Link) -> PartLink:
        """The part at the other end of ``link``."""
        return next(entry for entry in self.all if entry.link is link)

    def expect_links(self, addresses: Mapping[str, Address]) -> list[tuple[PartLink, Connect]]:
        """Which part is to connect to which others, at the ``addresses`` of their servers; from now
        on those links lack."""
        servers = {entry.part.name: entry.part.server for entry in self.all}
        asked = []
        for entry in self.all:
            entry.unlinked = set(list_linked(entry.routes))
            for name in list_called(entry.routes):
                address = addresses[servers[name]]
                asked.append((entry, Connect(part=name, host=address.host, port=address.port)))
        return asked

    def compare_clocks(self) -> list[tuple[PartLink, SetClock]]:
        """How far each server's clock is ahead, of that of the part that sends to it too."""
        entries = {entry.part.name: entry for entry in self.all}
        told = []
        for entry in self.all:
            source = entry.routes.source
            before = entries[source.part] if source else self.leader
            offset_ns = entry.clock_offset_ns
            ahead_ns = offset_ns - before.clock_offset_ns
            told.append((entry, SetClock(ahead_ns=ahead_ns, ahead_of_coordinator_ns=offset_ns)))
        return told
