"""Turns servers that listen into the parts of a captured module: assign, load, connect.

Everything here blocks, with deadlines, in the caller's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from partwise.capture.schedule import Schedule
from partwise.distributor.plan import Part, Plan, encode_plan
from partwise.engine.assembly import failure, loss
from partwise.errors import DeadlineExceeded, FrameError, LaunchError, RemoteError
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from partwise.remote.messages import (
    Assign,
    Connect,
    Connected,
    Failed,
    Loaded,
    Message,
    Pushed,
    decode_message,
    message_frame,
)
from partwise.remote.poller import Poller
from partwise.remote.transport import Address, Transport

READY_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleTarget:
    """What is to be assembled. ``addresses`` by server name; ``explain`` says why a server went
    away, as far as its launcher knows; a part may keep the others waiting for ``exchange_s``."""

    name: str
    plan: Plan
    schedule: Schedule
    path: str
    addresses: Mapping[str, Address]
    threads: int
    exchange_s: float
    explain: Callable[[str], str]


@dataclass(slots=True, eq=False)
class ModulePart:
    """One part and the coordinator's link to its server."""

    part: Part
    link: Link
    loaded: Loaded | None = None
    num_connected: int = 0


class ModuleAssembly:
    """Links to the servers of all parts, each with its part ready.

    ``on_tensors(part, frame)`` is called with results, ``on_pushed(part, message)`` with counts.
    """

    def __init__(self, target: ModuleTarget, transport: Transport) -> None:
        """Make every part ready.

        Raises:
            LaunchError, RemoteError, PartFailed: a server did not get ready.
        """
        self.target = target
        self.parts: list[ModulePart] = []
        self.on_tensors: Callable[[ModulePart, Frame], None] | None = None
        self.on_pushed: Callable[[ModulePart, Pushed], None] | None = None
        self.poller = Poller(self._on_frame, self._on_lost, is_pressed=False)
        try:
            self._reach(transport)
            self._load()
            self._connect()
        except BaseException:
            self.poller.close()
            raise

    def _reach(self, transport: Transport) -> None:
        hello = Hello(role="coordinator", name="coordinator", deployment=self.target.name)
        for part in self.target.plan.parts:
            address = self.target.addresses.get(part.server)
            if address is None:
                known = ", ".join(self.target.addresses) or "none"
                raise LaunchError(
                    f"{part.name} wants server {part.server!r}, which is not there: {known}"
                )
            entry = ModulePart(part, Link(transport.connect(address, hello), part.name))
            self.parts.append(entry)
            self.poller.add_link(entry.link)

    def _load(self) -> None:
        for entry in self.parts:
            assign = Assign(
                deployment=self.target.name,
                plan=encode_plan(self.target.plan),
                part=entry.part.name,
                model_path=self.target.path,
                threads=self.target.threads,
                exchange_s=self.target.exchange_s,
            )
            self.send(entry, message_frame(assign, self.target.plan.plan_version))
        self.wait(lambda entry: entry.loaded is not None, READY_S, "load its parameters")

    def _connect(self) -> None:
        """Let each part connect to those that it pushes to."""
        targets = {e.part.name: self.target.schedule.list_targets(e.part.name) for e in self.parts}
        servers = {entry.part.name: entry.part.server for entry in self.parts}
        for entry in self.parts:
            for name in targets[entry.part.name]:
                address = self.target.addresses[servers[name]]
                self.tell(entry, Connect(part=name, host=address.host, port=address.port))
        self.wait(
            lambda entry: entry.num_connected == len(targets[entry.part.name]),
            READY_S,
            "reach the parts that it pushes to",
        )

    def tell(self, entry: ModulePart, message: Message) -> None:
        """Send a control message to a part."""
        self.send(entry, message_frame(message, self.target.plan.plan_version))

    def send(self, entry: ModulePart, frame: Frame) -> None:
        """Send a frame to a part.

        Raises:
            PartFailed: its server went away.
        """
        try:
            entry.link.send(frame)
        except RemoteError as exc:
            self._on_lost(entry.link, exc)

    def wait(self, is_done: Callable[[ModulePart], bool], limit_s: float, what: str) -> None:
        """Wait until every part is done.

        Raises:
            DeadlineExceeded: one is not in ``limit_s``; says ``what`` it did not do.
            PartwiseError: one failed, or its server went away.
        """
        stop_s = time.monotonic() + limit_s
        while late := [entry.part for entry in self.parts if not is_done(entry)]:
            if time.monotonic() > stop_s:
                raise DeadlineExceeded(
                    f"{late[0].name} on server {late[0].server!r} did not {what} in {limit_s:g} s"
                    f" (plan_version {self.target.plan.plan_version}): is its host alive?"
                )
            self.poller.poll(min(0.2, limit_s))

    def _on_frame(self, link: Link, frame: Frame) -> None:
        entry = next(entry for entry in self.parts if entry.link is link)
        if frame.kind is not FrameKind.CONTROL:
            if self.on_tensors is not None:
                self.on_tensors(entry, frame)
            link.release(frame)
            return
        match message := decode_message(frame):
            case Loaded():
                entry.loaded = message
            case Connected():
                entry.num_connected += 1
            case Failed():
                raise failure(entry.part, message)
            case Pushed() if self.on_pushed is not None:
                self.on_pushed(entry, message)
            case _:
                raise FrameError(f"{entry.part.name} sent an unexpected {type(message).__name__}")

    def _on_lost(self, link: Link, error: RemoteError) -> None:
        part = next(entry.part for entry in self.parts if entry.link is link)
        raise loss(part, error, self.target.explain)

    def close(self) -> None:
        """End all links: the servers forget their parts."""
        self.poller.close()
