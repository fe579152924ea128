"""A TCP relay that makes a short way long: what comes in on one side goes out on the other a fixed
time later, as if the two were far apart, and no faster than a line of so many bits carries it.

One thread and a poll loop, whole and in order, any number of connections. Delays are good to about
0.2 ms. A line's rate is shared by all connections in its direction; what waits for it waits here.
It knows nothing of congestion: TCP sees the short ways to the relay and from it.

    python bench/relay.py 127.0.0.1:0=127.0.0.1:7070 [more] [--delay-ms 20] [--mbit-per-s 10]

It prints the address of each route, then takes lines ``DELAY_MS MBIT_PER_S`` (0: no limit) from
its standard input, a pipe, and answers each with ``ok``. It ends when that does.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from relay_flows import End, Flow, Line

CHUNK_BYTES = 1 << 16
MAX_QUEUED_BYTES = 1 << 23
"""Of one direction of a connection: beyond it the sender waits, as for any slow receiver."""
EARLY_S = 120e-6
"""Before something is due it is looked for again and again: a processor of a virtual machine that
slept for milliseconds wakes up about so late."""
MOST_LATE_S = 2e-3
"""What lay in a socket for longer waited for room here, and is not counted from its arrival."""
BACKLOG = 128
OK = "ok"
SO_TIMESTAMPNS, TIMESTAMP = 35, struct.Struct("@ll")
"""Of <asm/socket.h>: seconds and nanoseconds at which the kernel had what is read."""
NOTES_BYTES = socket.CMSG_SPACE(TIMESTAMP.size)

_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT
_BROKEN = select.EPOLLHUP | select.EPOLLERR


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who connects to ``listen`` (port 0: any) is connected to ``target``. ``line`` (0 or 1)
    carries what goes there, the other one what comes back: of two servers far apart, each is
    the end of another line."""

    listen: tuple[str, int]
    target: tuple[str, int]
    line: int = 0


class Relay:
    """Listens as soon as it is made. ``lines`` are those that routes name."""

    def __init__(self, routes: Sequence[Route], lines: tuple[Line, Line]) -> None:
        self._lines = lines
        self._epoll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, Route]] = {}
        # By descriptor: the flow that reads from it, and the one that writes to it.
        self._flows: dict[int, tuple[Flow, Flow]] = {}
        self._due: list[tuple[float, int, Flow]] = []
        self._numbers = itertools.count()
        for route in routes:
            listener = socket.create_server(route.listen, backlog=BACKLOG)
            listener.setblocking(False)
            self._listeners[listener.fileno()] = (listener, route)
            self._epoll.register(listener, _READ)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where each route listens."""
        return [listener.getsockname()[:2] for listener, _ in self._listeners.values()]

    def watch(self, fd: int) -> None:
        """Let `step` return when ``fd`` is readable, too."""
        self._epoll.register(fd, _READ)

    def step(self) -> set[int]:
        """Wait until something is ready or due, and do it; the descriptors that were ready."""
        timeout_s = None
        if self._due:
            timeout_s = max(0.0, self._due[0][0] - EARLY_S - time.monotonic())
        # Waiting on the epoll itself would count milliseconds; this counts microseconds.
        select.select([self._epoll], [], [], timeout_s)
        ready = self._epoll.poll(0)
        for fd, events in ready:
            if fd in self._listeners:
                self._accept(*self._listeners[fd])
            elif fd in self._flows:
                self._serve(*self._flows[fd], events)
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            flow = heapq.heappop(self._due)[2]
            flow.is_scheduled = False
            if flow.pieces:
                self._write(flow)
        return {fd for fd, _ in ready}

    def close(self) -> None:
        """Close everything at once."""
        for reads, _ in self._flows.values():
            reads.source.sock.close()
        for listener, _ in self._listeners.values():
            listener.close()
        self._epoll.close()

    def _accept(self, listener: socket.socket, route: Route) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # it is gone already
        server = socket.socket(client.family)
        ends = End(client, takes_nothing=False), End(server, takes_nothing=True)
        there = Flow(self._lines[route.line], ends[0], ends[1])
        back = Flow(self._lines[1 - route.line], ends[1], ends[0])
        for end, flows in zip(ends, ((there, back), (back, there)), strict=True):
            end.sock.setblocking(False)
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._flows[end.sock.fileno()] = flows
            self._epoll.register(end.sock, 0)
        server.connect_ex(route.target)  # the socket's events say what comes of it
        self._look_after(there)

    def _serve(self, reads: Flow, writes: Flow, events: int) -> None:
        """One socket is ready: ``reads`` is what it is read for, ``writes`` what is written."""
        if events & _WRITE:
            reads.source.takes_nothing = False
            self._write(writes)
        if reads.is_finished and writes.is_finished:
            return
        if events & (_READ | _BROKEN):
            self._read(reads, writes)

    def _read(self, reads: Flow, writes: Flow) -> None:
        try:
            data, notes, *_ = reads.source.sock.recvmsg(CHUNK_BYTES, NOTES_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data, notes = b"", []  # it broke: the next time it will have ended already
        if not reads.has_ended:
            reads.put(data, find_arrival_s(notes))
        elif not data:
            writes.finish()  # nobody takes it any more
        self._write(reads)

    def _write(self, flow: Flow) -> None:
        try:
            flow.write_due()
        except OSError:
            flow.finish()  # that the target is gone, its own events say
        self._look_after(flow)

    def _look_after(self, flow: Flow) -> None:
        """Wait for what a connection waits for now, after a change of ``flow``."""
        if flow.pieces and not flow.target.takes_nothing and not flow.is_scheduled:
            flow.is_scheduled = True
            heapq.heappush(self._due, (flow.pieces[0][0], next(self._numbers), flow))
        ends = (flow.source, flow.target)
        if all(f.is_finished for f in self._flows[flow.source.sock.fileno()]):
            for end in ends:
                self._leave(end)
                del self._flows[end.sock.fileno()]
                end.sock.close()
            return
        for end in ends:
            self._choose_events(end)

    def _choose_events(self, end: End) -> None:
        reads, writes = self._flows[end.sock.fileno()]
        if reads.has_ended and writes.is_finished:
            self._leave(end)  # a broken socket would be ready for ever
            return
        has_room = not reads.has_ended and reads.num_bytes < MAX_QUEUED_BYTES
        mask = _READ * has_room | _WRITE * (end.takes_nothing and not writes.is_finished)
        if mask != end.mask:
            end.mask = mask
            self._epoll.modify(end.sock, mask)

    def _leave(self, end: End) -> None:
        if end.is_watched:
            end.is_watched = False
            self._epoll.unregister(end.sock)


def find_arrival_s(notes: Sequence[tuple[int, int, bytes]]) -> float:
    """When the kernel had what was read with ``notes``, by the monotonic clock: before this process
    woke up for it. Now, where it does not say."""
    now_s = time.monotonic()
    for _, kind, data in notes:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESTAMP.unpack(data)
            ago_s: float = (time.time_ns() - seconds * 1_000_000_000 - nanoseconds) / 1e9
            return now_s - min(max(ago_s, 0.0), MOST_LATE_S)
    return now_s


def obey(command: str, lines: Sequence[Line]) -> None:
    """Change ``lines`` as a command says."""
    delay_ms, mbit_per_s = map(float, command.split())
    for line in lines:
        line.delay_s = delay_ms / 1e3
        line.bytes_per_s = mbit_per_s * 1e6 / 8 or None


def parse_route(text: str, line: int = 0) -> Route:
    """The route of ``HOST:PORT=HOST:PORT``."""
    listen, target = (each.rpartition(":") for each in text.split("="))
    return Route(listen=(listen[0], int(listen[2])), target=(target[0], int(target[2])), line=line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("routes", nargs="+")
    parser.add_argument("--reverse", action="append", default=[], help="one the other way")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--mbit-per-s", type=float, default=0.0)
    args = parser.parse_args()
    lines = Line(), Line()
    routes = [parse_route(text) for text in args.routes]
    routes += [parse_route(text, line=1) for text in args.reverse]
    obey(f"{args.delay_ms} {args.mbit_per_s}", lines)
    with contextlib.suppress(OSError):  # only root may have itself served first
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    relay = Relay(routes, lines)
    for host, port in relay.addresses:
        print(f"{host}:{port}", flush=True)
    control, text = sys.stdin.fileno(), ""
    relay.watch(control)
    while True:
        if control not in relay.step():
            continue
        read = os.read(control, 1 << 12).decode()
        if not read:
            return
        *commands, text = (text + read).split("\n")
        for command in commands:
            obey(command, lines)
            print(OK, flush=True)


if __name__ == "__main__":
    main()
