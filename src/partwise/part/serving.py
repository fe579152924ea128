"""One part of one plan on a server, from its assignment to its end: the machine's actions are done
here, with the part's runner, links, members and accounts.

The server (`server.py`) owns the sockets and the thread, and hands on what is of this plan_version.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from partwise.errors import FrameError, RemoteError
from partwise.part import events
from partwise.part.accounts import Accounts
from partwise.part.assignment import Assignment
from partwise.part.converter import Converter
from partwise.part.links import PartLinks, ServerLinks
from partwise.part.loader import Loader
from partwise.part.machine import PartMachine, Phase
from partwise.part.members import Members, Surroundings
from partwise.part.memory import resident_bytes
from partwise.part.outbox import Outbox
from partwise.part.picked import fill_in
from partwise.part.runner import Runner, RunnerFactory
from partwise.part.unpacker import Unpacker
from partwise.registry.connections import list_called, list_linked, list_next
from partwise.remote.authenticate import Hello
from partwise.remote.channel import Channel
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from partwise.remote.messages import (
    AnyMessage,
    Connect,
    Connected,
    GetStats,
    Loaded,
    LoadProgress,
    Message,
    Ping,
    Refused,
    Release,
    SetClock,
)
from partwise.remote.poller import Poller
from partwise.remote.transport import Address, Transport

TURN_S = 0.02
"""How long the server may wait for something to do before it looks whether a thread has loaded."""


class Abandoned(Exception):
    """The assignment ended while it was being loaded or computed."""


@dataclass(slots=True, kw_only=True)
class Host:
    """What a part has of its server. ``tell(message, plan_version)`` goes to the coordinator;
    ``fail(serving, error)`` is told why one cannot go on, and ``turn(timeout_s, serving)`` looks
    after links, and does what all but that one have to do. ``empty_bytes`` were resident before any
    part; ``is_stopped``: the server ends, and nothing is to be finished."""

    transport: Transport
    links: ServerLinks
    poller: Poller
    converter: Converter
    make_runner: RunnerFactory
    tell: Callable[[Message, int], None]
    fail: Callable[[Serving, Exception], None]
    turn: Callable[[float, Serving], None]
    loader: Loader
    empty_bytes: int
    is_stopped: bool = False


class Serving:
    """A part while a server holds it. The server's thread alone uses it.

    ``todo`` are actions that are still to be done.
    """

    def __init__(self, assignment: Assignment, host: Host) -> None:
        self.assignment = assignment
        self.plan_version = assignment.plan.plan_version
        self.machine = PartMachine()
        self.todo: deque[events.Action] = deque()
        self.links = PartLinks(host.poller)
        self.accounts = Accounts()
        self._host = host
        self._poll = host.poller.poll
        self._runner: Runner | None = None
        self._progress = LoadProgress(done_bytes=0, total_bytes=0)
        self._members = self._make_members()
        self._unpacker = Unpacker(host.converter, self.accounts.timeline, self.accounts.received)
        self._outbox = Outbox(
            links=self.links,
            converter=host.converter,
            accounts=self.accounts,
            send=self._send,
            fail=self._fail,
        )
        self._doers: dict[type, Callable[..., None]] = {
            events.Compute: self._compute,
            events.Push: self._push,
            events.Consume: self._consume,
            events.Refuse: self._refuse,
            events.Forget: self._forget,
            events.Load: self._load,
            events.Reset: self._reset,
        }

    def _make_members(self) -> Members | None:
        assignment = self.assignment
        if len(assignment.routes.members) == 1:
            return None
        around = Surroundings(attend=self._attend, lose=self._host.poller.lose)
        return Members(assignment.routes, around, self.accounts, assignment.exchange_s)

    def apply(self, event: events.Event) -> None:
        """What ``event`` asks for is to be done."""
        self.todo.extend(self.machine.handle(event))

    def do_all(self) -> None:
        """What is to be done, up to the second pass: the links have a turn before each."""
        has_computed = False
        todo = self.todo
        while todo:
            is_pass = type(todo[0]) is events.Compute
            if is_pass and has_computed:
                return
            has_computed |= is_pass
            action = todo.popleft()
            self._doers[type(action)](action)

    def end(self) -> None:
        """Nobody needs this part any more: its runner, links and frames go."""
        left = [action for action in self.todo if type(action) is events.Consume]
        self.todo.clear()
        for action in (*left, *self.machine.handle(events.Unassigned())):
            self._doers[type(action)](action)

    def _fail(self, error: Exception) -> None:
        self._host.fail(self, error)

    def _tell(self, message: Message) -> None:
        self._host.tell(message, self.plan_version)

    # Links

    def admit(self, hello: Hello, channel: Channel) -> None:
        """A part of this plan_version connected."""
        assignment, routes = self.assignment, self.assignment.routes
        is_caller = hello.name in routes.members[: routes.index]
        is_known = is_caller and hello.name in self.links.needed
        if hello.deployment != assignment.deployment or is_known:
            channel.close()
        elif is_caller:
            self._join(self.links.need(channel, hello.name))
        else:
            self.links.take_in(channel, hello.name)

    def _connect(self, connect: Connect) -> None:
        assignment = self.assignment
        if self.machine.phase is Phase.FAILED:
            return  # why is told already
        if self.machine.phase is not Phase.LOADED:
            raise FrameError(f"{self.machine.name} is {self.machine.phase}, not loaded")
        if connect.part not in list_called(assignment.routes):
            raise FrameError(f"{assignment.part} has nothing to send to {connect.part}")
        hello = Hello(
            role="part",
            name=assignment.part,
            deployment=assignment.deployment,
            plan_version=self.plan_version,
        )
        try:
            channel = self._host.transport.connect(Address(connect.host, connect.port), hello)
        except Exception as exc:  # noqa: BLE001 - the server outlives whatever it is sent
            kind = type(exc) if isinstance(exc, RemoteError) else RemoteError
            self._fail(kind(f"{assignment.part} cannot reach {connect.part}: {exc}"))
            return
        self._join(self.links.need(channel, connect.part))

    def _join(self, link: Link) -> None:
        """``link``, which is needed, stands."""
        routes = self.assignment.routes
        if link.name in list_next(routes):
            self._outbox.add(routes.part, link.name, self.assignment.codec_to(link.name))
        elif self._members is not None:
            self._members.join(link.name, link)
        self._tell(Connected(part=link.name))
        self._check_joined()

    def _check_joined(self) -> None:
        is_joined = self.links.needed.keys() == list_linked(self.assignment.routes)
        if is_joined and self.machine.phase is Phase.LOADED:
            self.apply(events.Joined())

    # Frames

    def receive(self, link: Link, frame: Frame) -> None:
        """A data frame of this plan_version came over ``link``."""
        if frame.kind is FrameKind.PARTIAL_SUM:
            self._receive_partial_sum(link, frame)
            return
        host = self._host
        if frame.kind is FrameKind.RESULT and link.name != self.assignment.leader:
            told = FrameError(f"{link.name} sent picks, and does not speak for the last")
            host.poller.lose(link, told)
            return
        self.accounts.arrive(frame, is_from_part=link is not host.links.coordinator)
        host.links.hold(link, frame)
        actions = self.machine.handle(events.Received(frame))
        self.todo += actions
        if not actions:  # it waits for its turn
            self._unpacker.expect(frame)

    def _receive_partial_sum(self, link: Link, frame: Frame) -> None:
        if self.machine.phase is Phase.FAILED:
            link.release(frame)
            return
        try:
            if self._members is None:
                raise FrameError(f"{link.name} sent a partial sum, and is no member here")
            self._members.receive(link, frame)
        except FrameError as exc:
            self._host.poller.lose(link, exc)

    def hear(self, message: AnyMessage) -> None:
        """The coordinator said so of this plan_version.

        Raises:
            FrameError: it may not say that, or not now.
        """
        match message:
            case Connect():
                self._connect(message)
            case SetClock():
                self.accounts.set_clock(message)
            case Release():
                self.apply(events.Released(message.sequences, message.step))
            case Ping():
                waits_for = self._members.waits_for if self._members else ""
                self._tell(self.machine.answer(message, time.monotonic_ns(), waits_for))
            case GetStats():
                self._tell(self.accounts.stats(message.number))
            case _:
                raise FrameError(f"a coordinator does not send {type(message).__name__}")

    # Loading

    def prepare(self) -> None:
        """Load on a thread, while what runs goes on; no step is of this part until that is said.

        Raises:
            Abandoned: nobody needs it any more.
            Exception: whatever the runner or the store raises.
        """
        self.machine.handle(self.assignment.event())
        self.machine.handle(events.Spanned(0, 0))
        loading = self._host.loader.start(lambda: self._make_runner(self._note_progress))
        while not loading.done():
            before = self._progress
            self._host.turn(TURN_S, self)
            self._check_wanted()
            if self._progress != before:
                self._tell(self._progress)
        self._hold(loading.result())

    def _note_progress(self, done_bytes: int, total_bytes: int) -> None:
        """Called by the thread that loads."""
        self._check_wanted()
        self._progress = LoadProgress(done_bytes=done_bytes, total_bytes=total_bytes)

    def _make_runner(self, on_progress: Callable[[int, int], None]) -> Runner:
        self._check_wanted()
        return self.assignment.load(self._host.make_runner, on_progress, self._members)

    def _hold(self, runner: Runner) -> None:
        """The weights are in memory."""
        self._runner = runner
        self.apply(events.LoadDone())
        loaded = Loaded(
            weight_bytes=runner.weight_bytes,
            resident_bytes=resident_bytes(),
            empty_resident_bytes=self._host.empty_bytes,
            notes=runner.notes,
        )
        self._tell(loaded)
        self._check_joined()

    def _on_progress(self, done_bytes: int, total_bytes: int) -> None:
        self._tell(LoadProgress(done_bytes=done_bytes, total_bytes=total_bytes))
        self._attend()

    def _load(self, action: events.Load) -> None:
        try:
            self._hold(self._make_runner(self._on_progress))
        except Abandoned:
            return
        except Exception as exc:  # noqa: BLE001 - whatever a runner raises ends its part
            self._fail(exc)

    def _reset(self, action: events.Reset) -> None:
        self.links.close()
        self._runner = self._members = None

    # Passes

    def _compute(self, action: events.Compute) -> None:
        frame = action.frame
        if self._runner is None:
            return
        try:
            inputs = self._unpacker.open(frame)
            if action.picked:
                inputs = (fill_in(inputs[0], action.picked),)
            self.accounts.begin_pass()
            if self._members is not None:
                self._members.begin_pass(frame)
            outputs = self._runner.run(frame.rows, inputs, self._between_layers)
            if self._members is not None:
                self._members.end_pass()
        except Abandoned:
            return
        except Exception as exc:  # noqa: BLE001 - whatever a runner raises ends its part
            self._fail(exc)
            return
        self.accounts.end_pass(frame)
        self.todo += self.machine.handle(events.Computed(frame, outputs))

    def _between_layers(self) -> None:
        timeline = self.accounts.timeline
        timeline.begin_turn()
        self._attend()
        timeline.end_turn()

    def _attend(self, timeout_s: float = 0) -> None:
        """Look after links while it loads or computes: for a moment, or until something comes."""
        self._poll(timeout_s)
        self._check_wanted()

    def _check_wanted(self) -> None:
        if self._host.is_stopped or self.machine.phase not in (Phase.LOADING, Phase.SERVING):
            raise Abandoned

    def _push(self, push: events.Push) -> None:
        if push.to_coordinator:
            self._send(self._host.links.coordinator, push.frame)
        else:
            self._outbox.push(push.frame, has_more=self.machine.is_computing)
        self.accounts.push()

    def _send(self, link: Link | None, frame: Frame) -> None:
        if link is None:
            return
        try:
            sent_bytes = link.send(frame)
        except RemoteError as exc:
            self._host.poller.lose(link, exc)
            return
        self.accounts.send(frame, sent_bytes)

    def _consume(self, action: events.Consume) -> None:
        self._unpacker.close(action.frame)
        self._host.links.release(action.frame)

    def _refuse(self, action: events.Refuse) -> None:
        frame = action.frame
        self._tell(Refused(microbatch=frame.microbatch, step=frame.step, text=action.reason))

    def _forget(self, action: events.Forget) -> None:
        if self._runner is not None:
            self._runner.release(action.sequences)
        if not self.machine.has_sequences:
            self.accounts.timeline.rest()
