"""The loop of one server: sockets in, and what came to the part that it is for (`serving.py`).

One thread does everything but convert large tensors (`converter.py`) and load the part of the next
plan (`loader.py`). While the runner computes, the loop gets a turn between two layers: it reads
what has come, answers pings, and goes on sending, so that communication runs under computing and
receiving never waits behind sending.
"""

from __future__ import annotations

import time

from partwise.errors import FrameError, RemoteError
from partwise.part.assignment import open_assignment
from partwise.part.converter import Converter
from partwise.part.failures import explain_failure
from partwise.part.holdings import Holdings
from partwise.part.links import ServerLinks
from partwise.part.loader import Loader
from partwise.part.machine import PartMachine
from partwise.part.memory import resident_bytes
from partwise.part.runner import RunnerFactory
from partwise.part.serving import Host, Serving
from partwise.part.waiting import waits_asleep
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from partwise.remote.messages import (
    AnyMessage,
    Assign,
    DropPlan,
    Failed,
    Message,
    Ping,
    PlanChange,
    Refused,
    SwitchPlan,
    decode_message,
    message_frame,
)
from partwise.remote.poller import Poller
from partwise.remote.transport import Listener, Transport

IDLE_POLL_S = 1.0


class PartServer:
    """Serves one part at a time to one coordinator at a time.

    `run` blocks until `stop` is called (from another thread or a signal handler).
    """

    def __init__(
        self, name: str, transport: Transport, listener: Listener, make_runner: RunnerFactory
    ) -> None:
        self.name = name
        self._listener = listener
        self._poller = Poller(self._on_frame, self._on_lost, is_pressed=not waits_asleep())
        self._poller.add(listener.fileno(), self._accept)
        self._links = ServerLinks(name, listener, self._poller)
        self._host = Host(
            transport=transport,
            links=self._links,
            poller=self._poller,
            converter=Converter(self._poller),
            make_runner=make_runner,
            tell=self._tell,
            fail=self._fail,
            turn=self._turn,
            loader=Loader(),
            empty_bytes=resident_bytes(),
        )
        self._held: Holdings | None = None
        self._idle = PartMachine()  # answers while there is none
        self._next_check_s = 0.0

    def run(self) -> None:
        """Serve until stopped."""
        try:
            while not self._host.is_stopped:
                self._turn(IDLE_POLL_S)
                if self._held is not None:
                    self._held.prepare_asked()
        finally:
            self._host.converter.close()
            self._host.loader.close()
            self._poller.close()
            self._listener.close()

    def stop(self) -> None:
        """Make `run` return within IDLE_POLL_S."""
        self._host.is_stopped = True

    def _turn(self, timeout_s: float, but: Serving | None = None) -> None:
        """Look after links, for ``timeout_s`` where nothing is to be done, and do what is."""
        is_busy = self._held is not None and self._held.is_busy
        if not is_busy:
            for serving in self._held or ():
                serving.accounts.timeline.wait()
        self._poller.poll(0 if is_busy else timeout_s)
        # Before computing, which may take long: every link had its chance right now.
        if (now_s := time.monotonic()) > self._next_check_s:
            self._next_check_s = now_s + IDLE_POLL_S
            self._give_up_stalled(now_s)
        self._do_all(but)

    def _do_all(self, but: Serving | None = None) -> None:
        if self._held is not None:
            self._held.do_all(but)

    def _give_up_stalled(self, now_s: float) -> None:
        needed = [link for serving in self._held or () for link in serving.links.needed.values()]
        self._links.give_up_stalled(now_s, needed)

    # Links

    def _accept(self) -> None:
        for hello, channel in self._links.accept():
            serving = self._find(hello.plan_version)
            if serving is None:
                channel.close()
            else:
                serving.admit(hello, channel)

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        if link is self._links.coordinator:
            self._unassign()
        elif link in self._links.refused:
            self._links.refused.forget(link)
        elif self._held is not None:
            self._held.lose(link, error)

    # Frames

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if link in self._links.refused:
            link.release(frame)
            return
        if frame.lease is None:  # only data frames have one
            try:
                self._on_message(link, frame)
            except FrameError as exc:
                self._poller.lose(link, exc)
            return
        held = self._held
        serving = held.find(frame.plan_version) if held is not None else None
        if serving is None:
            self._refuse(link, frame)
        else:
            serving.receive(link, frame)

    def _refuse(self, link: Link, frame: Frame) -> None:
        """A data frame is of no plan_version that is served here."""
        if frame.kind is FrameKind.PARTIAL_SUM:
            version = frame.plan_version
            text = f"{link.name} sent a partial sum of plan_version {version}: {self._say_served()}"
            self._poller.lose(link, FrameError(text))
            return
        reason = self._say_served()
        if self._held is not None:
            reason += f", the frame is of {frame.plan_version}"
        told = Refused(microbatch=frame.microbatch, step=frame.step, text=reason)
        self._tell(told, frame.plan_version)
        link.release(frame)

    def _find(self, plan_version: int) -> Serving | None:
        return self._held.find(plan_version) if self._held is not None else None

    def _say_served(self) -> str:
        if self._held is None:
            return f"{self._idle.name} is {self._idle.phase}, not serving"
        serving = self._held.in_force
        return f"{serving.machine.name} serves plan_version {serving.plan_version}"

    def _on_message(self, link: Link, frame: Frame) -> None:
        if link is not self._links.coordinator:
            raise FrameError(f"{link.name} sent a control message: only coordinators may")
        message = decode_message(frame)
        serving = self._find(frame.plan_version)
        if serving is None and self._held is not None:
            raise FrameError(
                f"{self._say_served()}, a {type(message).__name__} is of {frame.plan_version}"
            )
        if isinstance(message, Assign):
            self._assign(message)
        elif self._held is None or serving is None:
            self._hear_idle(message)
        elif isinstance(message, PlanChange | SwitchPlan | DropPlan):
            self._held.hear(message)
        else:
            serving.hear(message)

    def _hear_idle(self, message: AnyMessage) -> None:
        if not isinstance(message, Ping):
            raise FrameError(f"{self._say_served()}: a {type(message).__name__} came too early")
        self._tell(self._idle.answer(message, time.monotonic_ns(), ""), 0)

    def _tell(self, message: Message, plan_version: int) -> None:
        coordinator = self._links.coordinator
        if coordinator is None:
            return
        try:
            coordinator.send(message_frame(message, plan_version))
        except RemoteError as exc:
            self._poller.lose(coordinator, exc)

    # Assignment

    def _assign(self, assign: Assign) -> None:
        if self._held is not None:
            raise FrameError(f"{self._held.in_force.machine.name} is assigned already")
        try:
            held = Holdings(self._host, open_assignment(assign))
        except Exception as exc:  # noqa: BLE001 - the server outlives whatever it is sent
            told = explain_failure(self._idle.name, exc)
            self._tell(Failed(error=type(told).__name__, text=str(told)), 0)
            return
        self._held = held

    def _fail(self, serving: Serving, error: Exception) -> None:
        if self._held is not None:
            self._held.fail(serving, error)

    def _unassign(self) -> None:
        """The coordinator went away."""
        self._host.converter.forget()
        held, self._held = self._held, None
        if held is not None:
            held.end()
        self._links.reset()
