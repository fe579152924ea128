"""The exchange of members alone: links in memory, and a poller for each that its thread drives."""

from __future__ import annotations

from partwise.errors import FrameError, RemoteError
from partwise.part.accounts import Accounts
from partwise.part.members import Members, Surroundings
from partwise.registry.routes import Routes
from partwise.remote.channel import MemoryChannel
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from partwise.remote.poller import Poller


def make_routes(num_members: int, index: int, plan_version: int = 1) -> Routes:
    """The routes of one member of the only stage, called part0 and so on."""
    return Routes(
        plan_version=plan_version,
        part=f"part{index}",
        members=tuple(f"part{i}" for i in range(num_members)),
        index=index,
        source=None,
        targets=(),
        is_leader=index == 0,
        picks_for=(),
        exchanges=(),
    )


class Seat:
    """One member's exchange over links in memory, driven by the thread that uses it."""

    def __init__(self, routes: Routes, exchange_s: float = 20.0) -> None:
        self.errors: list[RemoteError] = []
        self.poller = Poller(self._on_frame, self._on_lost, is_pressed=False)
        around = Surroundings(attend=self._attend, lose=self.poller.lose)
        self.accounts = Accounts()
        self.members = Members(routes, around, self.accounts, exchange_s)
        self.links: dict[str, Link] = {}

    def join(self, part: str, channel: MemoryChannel, *, is_member: bool = True) -> None:
        """``channel`` leads to ``part``."""
        link = self.links[part] = Link(channel, part)
        self.poller.add_link(link)
        if is_member:
            self.members.join(part, link)

    def begin(self, step: int) -> None:
        """A pass of ``step`` begins."""
        self.members.begin_pass(Frame(kind=FrameKind.FORWARD, step=step, microbatch=step))

    def _attend(self, timeout_s: float) -> None:
        self.poller.poll(timeout_s)
        if self.errors:
            raise self.errors[0]

    def _on_frame(self, link: Link, frame: Frame) -> None:
        try:
            self.members.receive(link, frame)
        except FrameError as exc:
            self.poller.lose(link, exc)

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        self.errors.append(error)

    def close(self) -> None:
        self.poller.close()


def seat_members(
    num_members: int, *, seed: int | None = None, exchange_s: float = 20.0, capacity: int = 1 << 20
) -> list[Seat]:
    """As many members, each joined to every other one."""
    seats = [Seat(make_routes(num_members, i), exchange_s) for i in range(num_members)]
    for i, seat in enumerate(seats):
        for j in range(i + 1, num_members):
            own_seed = None if seed is None else 100 * seed + 10 * i + 2 * j
            ours, theirs = MemoryChannel.pair(capacity=capacity, seed=own_seed)
            seat.join(f"part{j}", ours)
            seats[j].join(f"part{i}", theirs)
    return seats
