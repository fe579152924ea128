"""The link to a real part server: over TCP, with deadlines, and with what it refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from partwise.errors import AuthenticationError, DeadlineExceeded, LaunchError, LinkClosed
from partwise.part.runner import Runner, RunnerOptions
from partwise.probe import link
from partwise.probe.link import measure_link
from partwise.remote.authenticate import Hello, new_token
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address
from support.parts import Servers

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


def test_a_slow_link_is_measured_as_slow(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    # A transfer at 50 MB/s and 1 ms there and back, whatever the loopback does.
    monkeypatch.setattr(link._Conversation, "ping", lambda self: 1e-3)
    monkeypatch.setattr(link._Conversation, "transfer", lambda self, n: 1e-3 + n / 50e6)
    found = measure_link(TcpTransport(TOKEN), servers.addresses["lab"])
    assert found.round_trip_s.median == pytest.approx(1e-3)
    assert found.bandwidth_bytes_per_s.median == pytest.approx(50e6)


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
