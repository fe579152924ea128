"""The loop of one server that hosts a part of a captured module.

One thread does everything. It computes the passes in their order, 1, 2, 3, ...; while a pass waits
for what another part owes it, frames come in, pings are answered and sending goes on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from partwise import errors
from partwise.capture.layouts import COORDINATOR
from partwise.capture.parcels import parcel_frame
from partwise.capture.schedule import Parcel
from partwise.errors import DeadlineExceeded, FrameError, PartwiseError, RemoteError
from partwise.part.memory import resident_bytes
from partwise.part.module.assignment import Assigned, Key, load
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.layout import Array
from partwise.remote.link import Link
from partwise.remote.messages import (
    Assign,
    Connect,
    Connected,
    CountPushed,
    Failed,
    Loaded,
    Message,
    Ping,
    Pong,
    Pushed,
    decode_message,
    message_frame,
)
from partwise.remote.poller import Poller
from partwise.remote.transport import Address, Listener, Transport

IDLE_POLL_S = 1.0
MAX_WAITING_FRAMES = 4096


class _Abandoned(Exception):
    """The assignment ended while a pass was computed."""


class ModuleServer:
    """Serves one part to one coordinator at a time; `run` blocks until `stop` is called from
    another thread or a signal handler. It computes with ``threads`` where the coordinator asks for
    no number."""

    def __init__(
        self,
        name: str,
        transport: Transport,
        listener: Listener,
        *,
        threads: int = 1,
    ) -> None:
        self.name = name
        self._transport = transport
        self._listener = listener
        self._threads = threads
        self._poller = Poller(self._on_frame, self._on_lost, is_pressed=False)
        self._poller.add(listener.fileno(), self._accept)
        self._coordinator: Link | None = None
        self._inbound: dict[Link, str] = {}
        self._assigned: Assigned | None = None
        self._empty_bytes = resident_bytes()
        self._is_stopped = False

    def run(self) -> None:
        """Serve until stopped."""
        try:
            while not self._is_stopped:
                self._poller.poll(IDLE_POLL_S)
                while self._is_due():
                    self._compute()
        finally:
            self._poller.close()
            self._listener.close()

    def stop(self) -> None:
        """Make `run` return within IDLE_POLL_S."""
        self._is_stopped = True

    # Links

    def _accept(self) -> None:
        for hello, channel in self._listener.accepted():
            link = Link(channel, hello.name)
            is_peer = self._assigned is not None and hello.deployment == self._assigned.deployment
            if hello.role == "coordinator" and self._coordinator is None:
                self._coordinator = link
            elif hello.role == "part" and is_peer:
                self._inbound[link] = hello.name
            else:
                channel.close()
                continue
            self._poller.add_link(link)

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        if link is self._coordinator:
            self._coordinator = None
            self._reset()
            return
        name = self._inbound.pop(link, None)
        assigned = self._assigned
        if assigned is None:
            return
        if name is None:
            name = next((part for part, other in assigned.links.items() if other is link), None)
        if name is not None and not assigned.has_failed:
            self._fail(errors.LinkClosed(f"{assigned.part} lost the link to {name}: {error}"))

    def _reset(self) -> None:
        """The assignment ended, and with it the links to other parts."""
        if self._assigned is not None:
            for link in (*self._inbound, *self._assigned.links.values()):
                self._poller.remove(link)
        self._inbound, self._assigned = {}, None

    # Frames

    def _on_frame(self, link: Link, frame: Frame) -> None:
        try:
            if frame.kind is FrameKind.CONTROL:
                self._on_message(link, frame)
            else:
                self._on_tensors(link, frame)
        except FrameError as exc:
            self._poller.lose(link, exc)

    def _on_tensors(self, link: Link, frame: Frame) -> None:
        assigned = self._assigned
        if assigned is None or assigned.has_failed:
            link.release(frame)
            return
        source = COORDINATOR if link is self._coordinator else self._inbound.get(link, "")
        key = frame.step, source, frame.layer
        is_stale = frame.plan_version != assigned.schedule.plan_version
        if is_stale or frame.kind is not FrameKind.FORWARD or len(frame.rows) != 1:
            link.release(frame)
            raise FrameError(
                f"{source} sent a {frame.kind.name} frame of plan_version {frame.plan_version},"
                f" {assigned.part} serves {assigned.schedule.plan_version}"
            )
        if len(assigned.inbox) >= MAX_WAITING_FRAMES:
            raise FrameError(f"{len(assigned.inbox)} frames wait at {assigned.part}, the limit")
        if frame.step <= assigned.finished_step or key in assigned.inbox:
            link.release(frame)  # a duplicate
            return
        assigned.inbox[key] = link, frame

    def _on_message(self, link: Link, frame: Frame) -> None:
        if link is not self._coordinator:
            raise FrameError(f"{link.name} sent a control message: only coordinators may")
        match message := decode_message(frame):
            case Assign():
                self._on_assign(message)
            case Connect():
                self._on_connect(message)
            case Ping():
                step = self._assigned.finished_step if self._assigned else 0
                now_ns = time.monotonic_ns()
                self._tell(Pong(number=message.number, sent_ns=message.sent_ns, clock_ns=now_ns,
                                received_step=step, finished_step=step))  # fmt: skip
            case CountPushed():
                for pushed in self._assigned.pushed.values() if self._assigned else ():
                    self._tell(pushed)
                self._tell(Pushed(target="", frames=0, tensor_bytes=0))
            case _:
                raise FrameError(f"a module's server takes no {type(message).__name__}")

    def _tell(self, message: Message) -> None:
        if self._coordinator is not None:
            version = self._assigned.schedule.plan_version if self._assigned else 0
            self._send(self._coordinator, message_frame(message, version))

    def _send(self, link: Link, frame: Frame) -> None:
        try:
            link.send(frame)
        except RemoteError as exc:
            self._poller.lose(link, exc)

    def _fail(self, error: Exception) -> None:
        """Tell the coordinator why this assignment ends, and compute nothing more of it."""
        if self._assigned is not None:
            self._assigned.has_failed = True
            for link, frame in self._assigned.inbox.values():
                link.release(frame)
            self._assigned.inbox.clear()
        is_own = isinstance(error, PartwiseError)
        kind = type(error).__name__ if is_own else errors.PartFailed.__name__
        text = str(error) if is_own else f"{type(error).__name__}: {error}"
        self._tell(Failed(error=kind, text=text))

    # Assignment

    def _on_assign(self, assign: Assign) -> None:
        if self._assigned is not None:
            raise FrameError(f"{self.name} is assigned already")
        try:
            self._assigned = load(assign, self._threads)
        except Exception as exc:  # noqa: BLE001 - the server outlives whatever it is sent
            self._fail(exc)
            return
        loaded = Loaded(
            weight_bytes=self._assigned.runner.weight_bytes,
            resident_bytes=resident_bytes(),
            empty_resident_bytes=self._empty_bytes,
        )
        self._tell(loaded)

    def _on_connect(self, connect: Connect) -> None:
        assigned = self._assigned
        if assigned is None or connect.part not in assigned.schedule.list_targets(assigned.part):
            raise FrameError(f"{self.name} has nothing to send to {connect.part}")
        hello = Hello(role="part", name=assigned.part, deployment=assigned.deployment)
        try:
            channel = self._transport.connect(Address(connect.host, connect.port), hello)
        except Exception as exc:  # noqa: BLE001 - the server outlives whatever it is sent
            kind = type(exc) if isinstance(exc, RemoteError) else RemoteError
            self._fail(kind(f"{assigned.part} cannot reach {connect.part}: {exc}"))
            return
        assigned.links[connect.part] = Link(channel, connect.part)
        self._poller.add_link(assigned.links[connect.part])
        self._tell(Connected(part=connect.part))

    # Passes

    def _is_due(self) -> bool:
        """Whether something came of the next step."""
        assigned = self._assigned
        if assigned is None or assigned.has_failed:
            return False
        return any(step == assigned.finished_step + 1 for step, _, _ in assigned.inbox)

    def _compute(self) -> None:
        assigned = self._assigned
        assert assigned is not None
        step = assigned.finished_step + 1
        batch = next(f.rows[0].num_tokens for (n, _, _), (_, f) in assigned.inbox.items()
                     if n == step)  # fmt: skip
        try:
            assigned.runner.run(batch, _Post(self, assigned, step, batch), self._attend)
        except _Abandoned:
            return
        except Exception as exc:  # noqa: BLE001 - whatever a module raises ends its part
            self._fail(exc)
            return
        assigned.finished_step = step

    def _attend(self, timeout_s: float = 0) -> None:
        """Look after links while a pass is computed: for a moment, or until something comes."""
        before = self._assigned
        self._poller.poll(timeout_s)
        if self._is_stopped or self._assigned is not before or before is None or before.has_failed:
            raise _Abandoned

    def push(self, assigned: Assigned, frame: Frame, target: str) -> None:
        """Send ``frame`` to ``target``, and count its tensors."""
        link = self._coordinator if target == COORDINATOR else assigned.links.get(target)
        if link is None:
            raise _Abandoned
        self._send(link, frame)
        before = assigned.pushed.get(target, Pushed(target=target, frames=0, tensor_bytes=0))
        num_bytes = sum(tensor.nbytes for tensor in frame.tensors)
        assigned.pushed[target] = Pushed(
            target=target, frames=before.frames + 1, tensor_bytes=before.tensor_bytes + num_bytes
        )

    def take(self, assigned: Assigned, key: Key) -> Frame:
        """Wait for a frame, whose tensors are good until the next one is taken."""
        stop_s = time.monotonic() + assigned.exchange_s
        while key not in assigned.inbox:
            if time.monotonic() > stop_s:
                raise DeadlineExceeded(
                    f"{key[1]} did not send to {assigned.part} in {assigned.exchange_s:g} s (step"
                    f" {key[0]}, plan_version {assigned.schedule.plan_version}): is its host"
                    " alive?"
                )
            self._attend(min(IDLE_POLL_S, assigned.exchange_s))
        link, frame = assigned.inbox.pop(key)
        link.release(frame)
        return frame


class _Post:
    """The frames of one pass of a server."""

    def __init__(self, server: ModuleServer, assigned: Assigned, step: int, batch: int) -> None:
        self._server, self._assigned = server, assigned
        self._step, self._batch = step, batch

    def push(self, parcel: Parcel, tensors: Sequence[Array]) -> None:
        """See `Post.push`."""
        version = self._assigned.schedule.plan_version
        frame = parcel_frame(parcel, tensors, step=self._step, batch=self._batch, version=version)
        self._server.push(self._assigned, frame, parcel.target)

    def take(self, parcel: Parcel) -> Sequence[Array]:
        """See `Post.take`."""
        frame = self._server.take(self._assigned, (self._step, parcel.source, parcel.phase))
        return frame.tensors  # type: ignore[return-value]
