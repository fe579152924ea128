"""Three members of a stage with microbatches in flight, whose frames arrive in random order.

All that decides about order is pure: the machine, what waits in the inbox, the rounds of a sum.
They run here by events: frames of each link in theirs, links in any. Frames are handed over as they
are, or go over channels in memory that cut and delay them at random.
"""

from __future__ import annotations

import random
from collections import deque
from functools import cache
from typing import Protocol

import numpy as np

from partwise.part.events import Assigned, Compute, Computed, Joined, LoadDone, Received, Refuse
from partwise.part.inbox import Inbox, Place, list_given
from partwise.part.machine import PartMachine
from partwise.part.swaps import Round, Swap, add_up, give_all
from partwise.remote.channel import MemoryChannel
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.link import Link
from support.seats import make_routes

NUM_MEMBERS, NUM_STEPS, NUM_PROMPTS = 3, 8, 4
SHAPE = (1, 5)
FIRST_FEEDER = NUM_MEMBERS
"""Beyond the members come feeders, one for each sequence: a stage of one member before this one
may let a frame pass another, unless they are of one sequence."""
Way = tuple[int, int]
"""A sender and a target."""


@cache
def give(member: int, step: int) -> np.ndarray:
    return np.random.default_rng([member, step]).standard_normal(SHAPE, np.float32)


@cache
def add(step: int) -> bytes:
    total = give(0, step) + give(1, step)
    for member in range(2, NUM_MEMBERS):
        total = total + give(member, step)
    return total.tobytes()


@cache
def compose(step: int) -> Frame:
    """The first steps are prompts, the others go on with what is picked for them."""
    flags = int(RowFlag.PICK)
    if step <= NUM_PROMPTS:
        row = Row(step, 0, 1, flags)
    else:
        row = Row(step - NUM_PROMPTS, 1, 1, flags | int(RowFlag.FOLLOWS))
    return Frame(
        kind=FrameKind.FORWARD, plan_version=1, microbatch=step, step=step, rows=(row,),
        tensors=(np.zeros(1, np.int64),),
    )  # fmt: skip


class ScheduledMember:
    """A member that sums and then gathers in each pass, in events of the world around it."""

    def __init__(self, index: int, world: World) -> None:
        self.index = index
        self.world = world
        routes = make_routes(NUM_MEMBERS, index)
        self.inbox = Inbox(routes)
        self.machine = PartMachine()
        self.machine.handle(
            Assigned(
                part=routes.part, plan_version=1, is_first=True, is_last=True,
                num_members=NUM_MEMBERS, is_leader=index == 0, input_dtype=np.dtype(np.int64),
                input_widths=(),
            )
        )  # fmt: skip
        self.machine.handle(LoadDone())
        self.machine.handle(Joined())
        self.computing: Frame | None = None
        self.swap: Swap | None = None
        self.wanted: Round | None = None
        self.place = Place(0, 0, 0)
        self.computed: list[int] = []

    def receive(self, sender: int, frame: Frame) -> None:
        if sender >= FIRST_FEEDER:
            self.act(self.machine.handle(Received(frame)))
        else:
            self.inbox.put(sender, frame)
        self.go_on()

    def act(self, actions: list) -> None:
        for action in actions:
            assert not isinstance(action, Refuse), action.reason
            if isinstance(action, Compute):
                self.computing = action.frame
                self.world.wake(self.index)  # it takes a while until it comes to the exchange

    def begin(self) -> None:
        """The pass comes to its first exchange."""
        step = self.computing.step
        self.computed.append(step)
        total = np.empty(SHAPE, np.float32)
        self.call(1, add_up(give(self.index, step), total, NUM_MEMBERS, self.index))

    def call(self, exchange: int, swap: Swap) -> None:
        self.swap = swap
        self.place = Place(self.computing.step, exchange, 0)
        self.send(next(swap))
        self.go_on()

    def send(self, wanted: Round) -> None:
        self.wanted = wanted
        for member in range(NUM_MEMBERS):
            if member != self.index:
                frame = Frame(
                    kind=FrameKind.PARTIAL_SUM, plan_version=1, step=self.place.step,
                    layer=self.place.exchange, attempt=self.place.number,
                    tensors=(wanted.outgoing[member],),
                )  # fmt: skip
                self.world.send(self.index, member, frame)

    def go_on(self) -> None:
        """As far as what came allows."""
        while self.swap is not None and not self.inbox.num_missing:
            frames = self.inbox.take(self.place, self.wanted)
            given = list_given(self.wanted.outgoing[self.index], self.index, frames)
            try:
                wanted = self.swap.send(given)
            except StopIteration as end:
                self.swap = None
                self.finish(end.value)
                return
            self.place = self.place._replace(number=self.place.number + 1)
            self.send(wanted)

    def finish(self, outcome: list[np.ndarray]) -> None:
        """The call is over."""
        step = self.place.step
        if self.place.exchange == 1:
            assert outcome[0].tobytes() == add(step), "another sum"
            self.call(2, give_all(np.array([self.index, step]), NUM_MEMBERS))
            return
        assert [given.tolist() for given in outcome] == [[i, step] for i in range(NUM_MEMBERS)]
        frame, self.computing = self.computing, None
        self.act(self.machine.handle(Computed(frame, (np.array([step]),))))


class Ways(Protocol):
    """How frames go from senders to targets, each way in order."""

    def send(self, way: Way, frame: Frame) -> None:
        """Send ``frame``, which asks for a turn."""
        ...

    def turn(self, way: Way) -> tuple[list[Frame], bool]:
        """What arrives now, and whether another turn is needed for it."""
        ...

    def close(self) -> None: ...


class Queues:
    """Frames are handed over as they are, one a turn."""

    def __init__(self) -> None:
        self._frames: dict[Way, deque[Frame]] = {}

    def send(self, way: Way, frame: Frame) -> None:
        """See `Ways.send`."""
        self._frames.setdefault(way, deque()).append(frame)

    def turn(self, way: Way) -> tuple[list[Frame], bool]:
        """See `Ways.turn`."""
        return [self._frames[way].popleft()], False

    def close(self) -> None:
        """See `Ways.close`."""


class Channels:
    """Links over channels in memory: a turn moves as much of what is under way as chance says."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ends: dict[Way, Link] = {}
        self._under_way: dict[Way, int] = {}

    def send(self, way: Way, frame: Frame) -> None:
        """See `Ways.send`."""
        if way not in self._ends:
            self._connect(*way)
        self._under_way[way] = self._under_way.get(way, 0) + 1
        self._ends[way].send(frame)

    def _connect(self, sender: int, target: int) -> None:
        seed = 10_000 * self._seed + 100 * min(sender, target) + 2 * max(sender, target)
        near, far = MemoryChannel.pair(seed=seed)
        self._ends[sender, target] = Link(near, str(target))
        self._ends[target, sender] = Link(far, str(sender))

    def turn(self, way: Way) -> tuple[list[Frame], bool]:
        """See `Ways.turn`."""
        sender, target = way
        if not self._under_way[way]:
            return [], False  # an earlier turn brought several
        self._ends[way].flush()
        frames = list(self._ends[target, sender].receive())
        self._under_way[way] -= len(frames)
        return frames, not frames

    def close(self) -> None:
        """See `Ways.close`."""
        for end in self._ends.values():
            end.channel.close()


class World:
    """What is under way: each way in order, all among each other in any."""

    def __init__(self, seed: int, ways: Ways) -> None:
        self._random = random.Random(seed).random
        self._ways = ways
        self._pending: list[Way] = []  # a way for each frame, a member to wake
        self.members = [ScheduledMember(index, self) for index in range(NUM_MEMBERS)]
        for step in range(1, NUM_STEPS + 1):
            for index in range(NUM_MEMBERS):
                self.send(FIRST_FEEDER + step % NUM_PROMPTS, index, compose(step))

    def send(self, sender: int, target: int, frame: Frame) -> None:
        self._ways.send((sender, target), frame)
        self._pending.append((sender, target))

    def wake(self, member: int) -> None:
        self._pending.append((-1, member))

    def run(self) -> None:
        """Until nothing is under way."""
        pending = self._pending
        while pending:
            index = int(self._random() * len(pending))
            pending[index], pending[-1] = pending[-1], pending[index]
            sender, target = way = pending.pop()
            if sender < 0:
                self.members[target].begin()
                continue
            frames, is_under_way = self._ways.turn(way)
            if is_under_way:
                pending.append(way)
            for frame in frames:
                self.members[target].receive(sender, frame)

    def check(self) -> None:
        """Every member computed all steps in order, and nothing is left."""
        for member in self.members:
            assert member.computed == list(range(1, NUM_STEPS + 1))
            assert member.machine.finished_step == NUM_STEPS
            assert member.inbox.num_missing == NUM_MEMBERS - 1


def run_schedule(seed: int, ways: Ways) -> None:
    """One schedule; fails where a frame is torn, lost or out of order."""
    world = World(seed, ways)
    try:
        world.run()
        world.check()
    except AssertionError as exc:
        exc.add_note(f"seed {seed}")
        raise
    finally:
        ways.close()
