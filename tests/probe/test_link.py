"""The link to a real part server: over TCP, with deadlines, and with what it refuses."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from partwise.errors import AuthenticationError, DeadlineExceeded, LaunchError, LinkClosed
from partwise.part.runner import Runner, RunnerOptions
from partwise.probe import link
from partwise.probe.link import measure_link
from partwise.remote.authenticate import Hello, new_token
from partwise.remote.frame import Frame
from partwise.remote.link import Link
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address
from support.parts import Servers

pytestmark = pytest.mark.quiet

TOKEN = new_token()


def refuse_to_load(options: RunnerOptions) -> Runner:
    raise AssertionError("a probe assigns no part")


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setattr(link, "LEAST_TRANSFER_S", 0.01)
    servers = Servers(["lab"], TcpTransport(TOKEN), refuse_to_load)
    yield servers
    servers.stop()
    servers.join()


def test_a_round_trip_and_a_bandwidth_are_measured_again_and_again(servers: Servers) -> None:
    for _ in range(2):  # the server is free again after each
        found = measure_link(TcpTransport(TOKEN), servers.addresses["lab"])
        assert 1e-6 < found.round_trip_s.low <= found.round_trip_s.median < 0.1
        assert found.bandwidth_bytes_per_s.median > 1e6
        assert found.speed.round_trip_s == pytest.approx(found.round_trip_s.median, rel=1e-3)


class SlowWay:
    """A relay in front of a server: towards it at most so many bytes a second, and each way a
    delay of each piece."""

    def __init__(self, server: Address, bytes_per_s: float, delay_s: float) -> None:
        self._bytes_per_s, self._delay_s = bytes_per_s, delay_s
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listening.getsockname()[1])
        self._threads = [threading.Thread(target=self._relay, args=(server,))]
        self._threads[0].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self._threads)

    def _relay(self, server: Address) -> None:
        where = server.host, server.port
        with (
            self._listening,
            self._listening.accept()[0] as near,
            socket.create_connection(where) as far,
        ):
            back = threading.Thread(target=self._carry, args=(far, near, math.inf))
            back.start()
            self._carry(near, far, self._bytes_per_s)
            back.join()

    def _carry(self, source: socket.socket, target: socket.socket, bytes_per_s: float) -> None:
        free_s = 0.0  # when the way has carried what was given to it
        with contextlib.suppress(OSError):
            while data := source.recv(32 << 10):
                start_s = max(free_s, time.perf_counter())
                free_s = start_s + len(data) / bytes_per_s
                time.sleep(max(0.0, free_s + self._delay_s - time.perf_counter()))
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def test_a_slow_link_is_measured_as_slow(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long beside what the scheduler of a busy machine adds to a sleep.
    monkeypatch.setattr(link, "LEAST_TRANSFER_S", 0.1)
    monkeypatch.setattr(link, "NUM_PINGS", 9)
    way = SlowWay(servers.addresses["lab"], bytes_per_s=4e6, delay_s=2e-3)
    found = measure_link(TcpTransport(TOKEN), way.address)
    way.join()
    assert 4e-3 <= found.round_trip_s.median < 12e-3
    assert 1e6 < found.bandwidth_bytes_per_s.median < 4.1e6


def test_another_token_is_refused(servers: Servers) -> None:
    with pytest.raises(AuthenticationError, match="same token file"):
        measure_link(TcpTransport(new_token()), servers.addresses["lab"])


def test_a_server_that_serves_somebody_says_so(servers: Servers) -> None:
    hello = Hello(role="coordinator", name="coordinator", deployment="busy")
    channel = TcpTransport(TOKEN).connect(servers.addresses["lab"], hello)
    try:
        with pytest.raises(LaunchError, match="server lab already serves another coordinator"):
            measure_link(TcpTransport(TOKEN), servers.addresses["lab"])
    finally:
        channel.close()


def test_nobody_there_is_said_in_one_line() -> None:
    with pytest.raises(LinkClosed, match="cannot reach server 127.0.0.1:1: Connection refused"):
        measure_link(TcpTransport(TOKEN), Address("127.0.0.1", 1))


def test_a_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ANSWER_S", 0.3)
    listener = TcpTransport(TOKEN).listen(Address("127.0.0.1", 0), "mute")
    held = []

    def accept() -> None:
        while not held:
            held.extend(listener.accepted())
            time.sleep(0.01)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        with pytest.raises(DeadlineExceeded, match="gave 0 of 1 answers, then none for 0.3 s"):
            measure_link(TcpTransport(TOKEN), listener.address)
    finally:
        thread.join()
        for _, channel in held:
            channel.close()
        listener.close()


def test_what_is_sent_cannot_be_compressed(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    send = Link.send

    def watch(self: Link, frame: Frame) -> None:
        sent.extend(tensor.tobytes() for tensor in frame.tensors)
        send(self, frame)

    monkeypatch.setattr(Link, "send", watch)
    measure_link(TcpTransport(TOKEN), servers.addresses["lab"])
    assert sent
    assert all(len(zlib.compress(data)) >= len(data) for data in sent[:3])
