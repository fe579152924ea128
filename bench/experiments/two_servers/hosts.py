"""Two servers of a processor each, and a link between them whose bandwidth and delay change.

With root each is on a host of its own (`namespaces.py`), and so is this process, on the first:
the cable has the bandwidth, by tbf, and relays the delay. Without root all are on this machine's
loopback, and a relay gives both; then the coordinator, too, reaches the first server through it.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.two_servers.cases import FREE, Condition
from namespaces import ADDRESSES, can_make_hosts, inside, two_hosts
from part_servers import PartServer, Place, start_server
from relaying import run_relay

PORTS = (7070, 7071)
FAR = ("10.213.79.1", "10.213.79.2")
"""Of the servers, too: on its own host such an address is the server's, on the other one that of a
relay to it."""
MTU = 576
"""As small as that one packet, which tbf lets pass at once, is little beside a hidden state."""
LEAST_BURST_BYTES, BURST_S = 700, 20e-6
"""What leaves at once after a pause: a packet, or what the line carries in so many seconds, less
than which timers do not keep."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoServers:
    """The servers' addresses by the short way between them and by the long one, which goes
    through relays: these cost a little even without delay. ``change`` gives the link another
    condition; ``has_cable``: its bandwidth is there without relays. ``pids`` are the processes of
    servers and relays."""

    short: Pair
    long: Pair
    token_file: Path
    has_cable: bool
    pids: tuple[int, ...]
    change: Callable[[Condition], None]

    def needs_long(self, condition: Condition) -> bool:
        """Whether a condition is to be had by the long way alone."""
        return condition.delay_ms > 0 or not (self.has_cable or condition.mbit_per_s is None)

    def addresses(self, *, is_long: bool) -> Pair:
        """Those of one of the ways."""
        return self.long if is_long else self.short


@contextmanager
def start_servers() -> Iterator[TwoServers]:
    """Two servers that listen, until the block ends. With root this thread is on the first one's
    host meanwhile."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="partwise-"))
        token_file = Path(folder) / "token"
        token_file.write_text(secrets.token_hex(32))
        start = _start_on_hosts if can_make_hosts() else _start_on_loopback
        yield start(stack, token_file)


def _start_on_hosts(stack: ExitStack, token_file: Path) -> TwoServers:
    hosts = stack.enter_context(two_hosts(None, MTU))
    for side in (0, 1):
        for address in FAR:
            hosts.give(side, address)
    servers = [
        _start(stack, side, f"0.0.0.0:{PORTS[side]}", token_file, name)
        for side, name in enumerate(hosts.names)
    ]
    short, long = (
        (f"{first}:{PORTS[0]}", f"{second}:{PORTS[1]}") for first, second in (ADDRESSES, FAR)
    )
    relays = [
        stack.enter_context(
            run_relay([f"{long[other]}={short[other]}"], before=("ip", "netns", "exec", name))
        )
        for name, other in zip(hosts.names, (1, 0), strict=True)
    ]

    def change(condition: Condition) -> None:
        bytes_per_s = (condition.mbit_per_s or 0) * 1e6 / 8
        burst = max(LEAST_BURST_BYTES, round(bytes_per_s * BURST_S))
        hosts.limit(condition.mbit_per_s, f"{burst}b")
        for relay in relays:
            relay.change(delay_s=condition.delay_ms / 1e3, mbit_per_s=None)

    stack.enter_context(inside(hosts.names[0]))
    return TwoServers(
        short=short,
        long=long,
        token_file=token_file,
        has_cable=True,
        pids=(*(server.pid for server in servers), *(relay.process.pid for relay in relays)),
        change=change,
    )


def _start_on_loopback(stack: ExitStack, token_file: Path) -> TwoServers:
    servers = [_start(stack, side, "127.0.0.1:0", token_file) for side in (0, 1)]
    first, second = (server.address for server in servers)
    relay = stack.enter_context(
        run_relay([f"127.0.0.1:0={second}"], reverse=[f"127.0.0.1:0={first}"])
    )

    def change(condition: Condition) -> None:
        relay.change(delay_s=condition.delay_ms / 1e3, mbit_per_s=condition.mbit_per_s)

    change(FREE)
    return TwoServers(
        short=(first, second),
        long=(relay.addresses[1], relay.addresses[0]),
        token_file=token_file,
        has_cable=False,
        pids=(*(server.pid for server in servers), relay.process.pid),
        change=change,
    )


def _start(
    stack: ExitStack, side: int, where: str, token_file: Path, host: str | None = None
) -> PartServer:
    cpus = sorted(os.sched_getaffinity(0))
    place = Place(cpu=cpus[side % len(cpus)], host=host)
    return stack.enter_context(start_server(place, where, token_file))
