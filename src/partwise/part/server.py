"""The loop of one server: sockets in, the machine's actions out.

One thread does everything but convert large tensors (`converter.py`). While the runner
computes, the loop gets a turn between two layers: it reads what has come, answers pings, and
goes on sending, so that communication runs under computing and receiving never waits behind
sending.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from partwise import errors
from partwise.errors import RemoteError
from partwise.part import events
from partwise.part.accounts import Accounts
from partwise.part.assignment import Assignment, open_assignment
from partwise.part.converter import Converter
from partwise.part.failures import explain_failure, explain_loss
from partwise.part.links import ServerLinks
from partwise.part.machine import PartMachine, Phase
from partwise.part.members import Members, Surroundings
from partwise.part.memory import resident_bytes
from partwise.part.outbox import Outbox
from partwise.part.picked import fill_in
from partwise.part.runner import Runner, RunnerFactory
from partwise.part.unpacker import Unpacker
from partwise.part.waiting import waits_asleep
from partwise.registry.connections import list_called, list_linked, list_next
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from partwise.remote.messages import (
    Assign,
    Connect,
    Connected,
    Failed,
    GetStats,
    Loaded,
    LoadProgress,
    Message,
    Ping,
    Refused,
    Release,
    SetClock,
    decode_message,
    message_frame,
)
from partwise.remote.poller import Poller
from partwise.remote.transport import Address, Listener, Transport

IDLE_POLL_S = 1.0


class _Abandoned(Exception):
    """The assignment ended while it was being loaded or computed."""


class PartServer:
    """Serves one part at a time to one coordinator at a time.

    `run` blocks until `stop` is called (from another thread or a signal handler).
    """

    def __init__(
        self, name: str, transport: Transport, listener: Listener, make_runner: RunnerFactory
    ) -> None:
        self.name = name
        self._transport = transport
        self._listener = listener
        self._make_runner = make_runner
        self._machine = PartMachine()
        self._poller = Poller(self._on_frame, self._on_lost, is_pressed=not waits_asleep())
        self._poller.add(listener.fileno(), self._accept)
        self._links = ServerLinks(name, listener, self._poller)
        self._assignment: Assignment | None = None
        self._runner: Runner | None = None
        self._members: Members | None = None
        self._todo: deque[events.Action] = deque()
        self._converter = Converter(self._poller)
        self._start_accounts()
        self._empty_bytes = resident_bytes()
        self._is_stopped = False
        self._next_check_s = 0.0
        self._doers: dict[type, Callable[..., None]] = {
            events.Compute: self._compute,
            events.Push: self._push,
            events.Consume: self._consume,
            events.Refuse: self._refuse,
            events.Forget: self._forget,
            events.Load: self._load,
            events.Reset: self._reset,
        }

    def run(self) -> None:
        """Serve until stopped."""
        try:
            while not self._is_stopped:
                if not self._todo:
                    self._accounts.timeline.wait()
                self._poller.poll(0 if self._todo else IDLE_POLL_S)
                # Before computing, which may take long: every link had its chance right now.
                if (now_s := time.monotonic()) > self._next_check_s:
                    self._next_check_s = now_s + IDLE_POLL_S
                    self._links.give_up_stalled(now_s)
                if self._todo:
                    self._do_all()
        finally:
            self._converter.close()
            self._poller.close()
            self._listener.close()

    def stop(self) -> None:
        """Make `run` return within IDLE_POLL_S."""
        self._is_stopped = True

    # Links

    def _accept(self) -> None:
        assignment = self._assignment
        if assignment is None:
            self._links.accept(None, ())
            return
        routes = assignment.routes
        for link in self._links.accept(assignment.deployment, routes.members[: routes.index]):
            self._join(assignment, link)

    def _join(self, assignment: Assignment, link: Link) -> None:
        """``link``, which is needed, stands."""
        routes = assignment.routes
        if link.name in list_next(routes):
            self._outbox.add(routes.part, link.name, assignment.codec_to(link.name))
        elif self._members is not None:
            self._members.join(link.name, link)
        self._tell(Connected(part=link.name))
        self._check_joined(assignment)

    def _check_joined(self, assignment: Assignment) -> None:
        is_joined = self._links.needed.keys() == list_linked(assignment.routes)
        if is_joined and self._machine.phase is Phase.LOADED:
            self._apply(events.Joined())

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        if link is self._links.coordinator:
            self._links.coordinator = None
            self._apply(events.Unassigned())
        elif self._links.forget(link):
            step = self._machine.finished_step
            where = f"after step {step} (plan_version {self._plan_version})"
            self._fail(explain_loss(self._machine.name, link.name, error, where))

    # Frames

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if link in self._links.refused:
            link.release(frame)
            return
        if frame.lease is None:  # only data frames have one
            try:
                self._on_message(link, frame)
            except errors.FrameError as exc:
                self._poller.lose(link, exc)
            return
        if frame.kind is FrameKind.PARTIAL_SUM:
            self._on_partial_sum(link, frame)
            return
        if frame.kind is FrameKind.RESULT and not self._picks(link.name):
            self._poller.lose(
                link, errors.FrameError(f"{link.name} sent picks, and does not speak for the last")
            )
            return
        self._accounts.arrive(frame, is_from_part=link is not self._links.coordinator)
        self._links.hold(link, frame)
        actions = self._machine.handle(events.Received(frame))
        self._todo += actions
        if not actions:  # it waits for its turn
            self._unpacker.expect(frame)

    def _picks(self, part: str) -> bool:
        return self._assignment is not None and part == self._assignment.leader

    def _on_partial_sum(self, link: Link, frame: Frame) -> None:
        if self._machine.phase is Phase.FAILED:
            link.release(frame)
            return
        try:
            if self._members is None:
                raise errors.FrameError(f"{link.name} sent a partial sum, and is no member here")
            self._members.receive(link, frame)
        except errors.FrameError as exc:
            self._poller.lose(link, exc)

    def _on_message(self, link: Link, frame: Frame) -> None:
        if link is not self._links.coordinator:
            raise errors.FrameError(f"{link.name} sent a control message: only coordinators may")
        message = decode_message(frame)
        if self._assignment is not None and frame.plan_version != self._plan_version:
            raise errors.FrameError(
                f"{self._machine.name} serves plan_version {self._plan_version}, a"
                f" {type(message).__name__} is of {frame.plan_version}"
            )
        match message:
            case Assign():
                self._on_assign(message)
            case Connect():
                self._on_connect(message)
            case SetClock():
                self._accounts.set_clock(message)
            case Release():
                self._apply(events.Released(message.sequences, message.step))
            case Ping():
                waits_for = self._members.waits_for if self._members else ""
                self._tell(self._machine.answer(message, time.monotonic_ns(), waits_for))
            case GetStats():
                self._tell(self._accounts.stats(message.number))
            case _:
                raise errors.FrameError(f"a coordinator does not send {type(message).__name__}")

    def _tell(self, message: Message) -> None:
        coordinator = self._links.coordinator
        if coordinator is None:
            return
        try:
            coordinator.send(message_frame(message, self._plan_version))
        except RemoteError as exc:
            self._poller.lose(coordinator, exc)

    @property
    def _plan_version(self) -> int:
        """0 without an assignment."""
        return self._assignment.plan.plan_version if self._assignment is not None else 0

    def _fail(self, error: Exception) -> None:
        """Tell the coordinator why this assignment ends, and end it."""
        told = explain_failure(self._machine.name, error)
        self._apply(events.Broken())
        self._tell(Failed(error=type(told).__name__, text=str(told)))

    # Assignment

    def _on_assign(self, assign: Assign) -> None:
        if self._machine.phase is not Phase.IDLE:
            raise errors.FrameError(f"{self._machine.name} is assigned already")
        try:
            assignment = open_assignment(assign)
            event = assignment.event()
        except Exception as exc:  # noqa: BLE001 - the server outlives whatever it is sent
            self._fail(exc)
            return
        self._assignment = assignment
        if len(assignment.routes.members) > 1:
            around = Surroundings(attend=self._attend, lose=self._poller.lose)
            exchange_s = assignment.exchange_s
            self._members = Members(assignment.routes, around, self._accounts, exchange_s)
        self._apply(event)

    def _load(self, action: events.Load) -> None:
        if self._assignment is None:
            return
        try:
            self._runner = self._assignment.load(
                self._make_runner, self._on_progress, self._members
            )
        except _Abandoned:
            return
        except Exception as exc:  # noqa: BLE001 - whatever a runner raises ends its part
            self._fail(exc)
            return
        self._apply(events.LoadDone())
        loaded = Loaded(
            weight_bytes=self._runner.weight_bytes,
            resident_bytes=resident_bytes(),
            empty_resident_bytes=self._empty_bytes,
            notes=self._runner.notes,
        )
        self._tell(loaded)
        self._check_joined(self._assignment)

    def _on_progress(self, done_bytes: int, total_bytes: int) -> None:
        self._tell(LoadProgress(done_bytes=done_bytes, total_bytes=total_bytes))
        self._attend()

    def _on_connect(self, connect: Connect) -> None:
        assignment = self._assignment
        if assignment is None or self._machine.phase is not Phase.LOADED:
            raise errors.FrameError(f"{self._machine.name} is {self._machine.phase}, not loaded")
        if connect.part not in list_called(assignment.routes):
            raise errors.FrameError(f"{assignment.part} has nothing to send to {connect.part}")
        hello = Hello(role="part", name=assignment.part, deployment=assignment.deployment)
        try:
            channel = self._transport.connect(Address(connect.host, connect.port), hello)
        except Exception as exc:  # noqa: BLE001 - the server outlives whatever it is sent
            kind = type(exc) if isinstance(exc, RemoteError) else RemoteError
            self._fail(kind(f"{assignment.part} cannot reach {connect.part}: {exc}"))
            return
        self._join(assignment, self._links.need(channel, connect.part))

    def _start_accounts(self) -> None:
        accounts = self._accounts = Accounts()
        self._unpacker = Unpacker(self._converter, accounts.timeline, accounts.received)
        self._outbox = Outbox(
            links=self._links,
            converter=self._converter,
            accounts=accounts,
            send=self._send,
            fail=self._fail,
        )

    def _reset(self, action: events.Reset) -> None:
        self._converter.forget()
        self._links.reset()
        self._assignment = self._runner = self._members = None
        self._start_accounts()

    # Actions

    def _apply(self, event: events.Event) -> None:
        self._todo.extend(self._machine.handle(event))

    def _do_all(self) -> None:
        """What is to be done, up to the second pass: the links have a turn before each."""
        has_computed = False
        while self._todo:
            is_pass = type(self._todo[0]) is events.Compute
            if is_pass and has_computed:
                return
            has_computed |= is_pass
            action = self._todo.popleft()
            self._doers[type(action)](action)

    def _consume(self, action: events.Consume) -> None:
        self._unpacker.close(action.frame)
        self._links.release(action.frame)

    def _refuse(self, action: events.Refuse) -> None:
        frame = action.frame
        self._tell(Refused(microbatch=frame.microbatch, step=frame.step, text=action.reason))

    def _forget(self, action: events.Forget) -> None:
        if self._runner is not None:
            self._runner.release(action.sequences)
        if not self._machine.has_sequences:
            self._accounts.timeline.rest()

    def _compute(self, action: events.Compute) -> None:
        frame = action.frame
        if self._runner is None:
            return
        try:
            inputs = self._unpacker.open(frame)
            if action.picked:
                inputs = (fill_in(inputs[0], action.picked),)
            self._accounts.begin_pass()
            if self._members is not None:
                self._members.begin_pass(frame)
            outputs = self._runner.run(frame.rows, inputs, self._between_layers)
            if self._members is not None:
                self._members.end_pass()
        except _Abandoned:
            return
        except Exception as exc:  # noqa: BLE001 - whatever a runner raises ends its part
            self._fail(exc)
            return
        self._accounts.end_pass(frame)
        self._todo += self._machine.handle(events.Computed(frame, outputs))

    def _push(self, push: events.Push) -> None:
        if push.to_coordinator:
            self._send(self._links.coordinator, push.frame)
        else:
            self._outbox.push(push.frame, has_more=self._machine.is_computing)
        self._accounts.push()

    def _send(self, link: Link | None, frame: Frame) -> None:
        if link is None:
            return
        try:
            sent_bytes = link.send(frame)
        except RemoteError as exc:
            self._poller.lose(link, exc)
            return
        self._accounts.send(frame, sent_bytes)

    def _between_layers(self) -> None:
        timeline = self._accounts.timeline
        timeline.begin_turn()
        self._attend()
        timeline.end_turn()

    def _attend(self, timeout_s: float = 0) -> None:
        """Look after links while it loads or computes: for a moment, or until something comes."""
        self._poller.poll(timeout_s)
        if self._is_stopped or self._machine.phase not in (Phase.LOADING, Phase.SERVING):
            raise _Abandoned
