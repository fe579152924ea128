"""Turns servers that listen into the parts of a plan: assign, load, connect, in that order.

Everything here blocks, with deadlines, in the caller's thread, before the engine runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from partwise import errors
from partwise.distributor.plan import Part, Plan, encode_plan
from partwise.engine.plan_parts import PartLink, PlanParts
from partwise.errors import DeadlineExceeded, LaunchError, PartFailed, PartwiseError, RemoteError
from partwise.model import Model
from partwise.registry.routes import compile_routes
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from partwise.remote.messages import (
    EXCHANGE_S,
    AnyMessage,
    Assign,
    Connected,
    Failed,
    Loaded,
    LoadProgress,
    Message,
    Ping,
    Pong,
    decode_message,
    message_frame,
)
from partwise.remote.poller import Poller
from partwise.remote.transport import Address, Transport

LOAD_STALL_S = 120.0
CONNECT_ALL_S = 30.0
NUM_CLOCK_PINGS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is to be assembled. ``addresses`` by server name; ``explain`` says why a server
    went away, as far as its launcher knows; a member of a stage may keep the others waiting for
    ``exchange_s``."""

    name: str
    plan: Plan
    model: Model
    model_path: str
    addresses: Mapping[str, Address]
    threads: int
    on_progress: Callable[[int, int], None]
    explain: Callable[[str], str]
    exchange_s: float = EXCHANGE_S


class Assembly:
    """Links to all servers of a deployment, in stage order, each with its part ready."""

    def __init__(self, deployment: Deployment, transport: Transport) -> None:
        self._deployment = deployment
        self.poller = Poller(self._on_frame, self._on_lost, is_pressed=False)
        self.parts: list[PartLink] = []
        try:
            self._reach(transport)
            self._load()
            self._connect()
            self._compare_clocks()
        except BaseException:
            self.poller.close()
            raise

    @property
    def plan_parts(self) -> PlanParts:
        return PlanParts(self._deployment.plan, self.parts)

    def _reach(self, transport: Transport) -> None:
        deployment = self._deployment
        hello = Hello(role="coordinator", name="coordinator", deployment=deployment.name)
        for stage in deployment.plan.stages:
            for member in stage.members:
                part = deployment.plan.part(member.part)
                address = deployment.addresses.get(part.server)
                if address is None:
                    known = ", ".join(deployment.addresses) or "none"
                    raise LaunchError(
                        f"{part.name} wants server {part.server!r}, which is not there: {known}"
                    )
                link = Link(transport.connect(address, hello), part.name)
                routes = compile_routes(deployment.plan, deployment.model, part.name)
                self.parts.append(PartLink(part=part, routes=routes, link=link))
                self.poller.add_link(link)

    def _load(self) -> None:
        deployment = self._deployment
        for entry in self.parts:
            assign = Assign(
                deployment=deployment.name,
                plan=encode_plan(deployment.plan),
                part=entry.part.name,
                model_path=deployment.model_path,
                threads=deployment.threads,
                exchange_s=deployment.exchange_s,
            )
            self._send(entry, assign)
        self._wait(lambda entry: entry.loaded is not None, LOAD_STALL_S, "load its weights")

    def _connect(self) -> None:
        """Let each part connect to those it sends to, the last stage's leader to the first stage,
        and the members of a stage to each other."""
        for entry, connect in self.plan_parts.expect_links(self._deployment.addresses):
            self._send(entry, connect)
        self._wait(lambda entry: not entry.unlinked, CONNECT_ALL_S, "reach the parts it needs")

    def _compare_clocks(self) -> None:
        """Tell each server how far its clock is ahead, by the fastest of a few round trips."""
        for number in range(NUM_CLOCK_PINGS):
            pending = {entry.part.name for entry in self.parts}
            self._pending_pongs = pending
            for entry in self.parts:
                self._send(entry, Ping(number=number, sent_ns=time.monotonic_ns()))
            self._wait(
                lambda entry, pending=pending: entry.part.name not in pending,  # type: ignore[misc]
                CONNECT_ALL_S,
                "answer a ping",
            )
        for entry, clock in self.plan_parts.compare_clocks():
            self._send(entry, clock)

    def _send(self, entry: PartLink, message: Message) -> None:
        try:
            entry.link.send(message_frame(message, self._deployment.plan.plan_version))
        except RemoteError as exc:
            self._on_lost(entry.link, exc)

    def _wait(self, is_done: Callable[[PartLink], bool], stall_s: float, what: str) -> None:
        """Wait until every part is done; ``stall_s`` without any news ends it."""
        self._news_s = time.monotonic()
        while late := [entry for entry in self.parts if not is_done(entry)]:
            self.poller.poll(0.2)
            if time.monotonic() - self._news_s > stall_s:
                entry = late[0]
                raise DeadlineExceeded(
                    f"{entry.part.name} on server {entry.part.server!r} did not {what}"
                    f" (plan_version {self._deployment.plan.plan_version}) and gave no news for"
                    f" {stall_s:g} s: is its host alive, does it reach the others?"
                )

    def _entry(self, link: Link) -> PartLink:
        return next(entry for entry in self.parts if entry.link is link)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        self._news_s = time.monotonic()
        if frame.kind is FrameKind.CONTROL:
            self._on_message(self._entry(link), decode_message(frame))

    def _on_message(self, entry: PartLink, message: AnyMessage) -> None:
        match message:
            case LoadProgress():
                entry.done_bytes, entry.total_bytes = message.done_bytes, message.total_bytes
                self._deployment.on_progress(
                    sum(e.done_bytes for e in self.parts), sum(e.total_bytes for e in self.parts)
                )
            case Loaded():
                entry.loaded = message
            case Connected():
                entry.unlinked.discard(message.part)
            case Pong():
                self._pending_pongs.discard(entry.part.name)
                estimate_clock(entry, message)
            case Failed():
                raise failure(entry.part, message)
            case _:
                raise errors.FrameError(
                    f"{entry.part.name} sent {type(message).__name__} too early"
                )

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        raise loss(self._entry(link).part, error, self._deployment.explain)


def estimate_clock(entry: PartLink, pong: Pong) -> None:
    """Improve the estimate of the server's clock, if this round trip was the fastest yet."""
    now_ns = time.monotonic_ns()
    round_trip_ns = now_ns - pong.sent_ns
    if round_trip_ns < entry.best_round_trip_ns:
        entry.best_round_trip_ns = round_trip_ns
        entry.clock_offset_ns = pong.clock_ns - (now_ns + pong.sent_ns) // 2


def failure(part: Part, message: Failed) -> PartwiseError:
    """The error that a part reported, of the class it had there."""
    kind = getattr(errors, message.error, None)
    if not (isinstance(kind, type) and issubclass(kind, PartwiseError)):
        kind = PartFailed
    text = message.text
    if part.name not in text:
        text = f"{part.name} on server {part.server!r}: {text}"
    return kind(text, part=part.name) if issubclass(kind, PartFailed) else kind(text)


def loss(part: Part, error: RemoteError, explain: Callable[[str], str]) -> PartwiseError:
    """The error for a server whose link ended, with what its launcher knows of it."""
    why = explain(part.server)
    return PartFailed(
        f"{part.name} on server {part.server!r} went away: {why or error}", part=part.name
    )
