"""TCP where it fails: deadlines, and clients that come while the listener goes."""

from __future__ import annotations

import os
import select
import socket
import threading
import time

import pytest

from partwise.errors import DeadlineExceeded, LinkClosed, RemoteError, UsageError
from partwise.remote import tcp
from partwise.remote.authenticate import Hello, new_token
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address, parse_address

pytestmark = pytest.mark.quiet

HELLO = Hello(role="coordinator", name="coordinator", deployment="test")
HERE = Address("127.0.0.1", 0)
LIMIT_S = 5.0


@pytest.fixture
def transport() -> TcpTransport:
    return TcpTransport(new_token())


def test_the_deadline_covers_connecting_and_the_handshake_together(
    transport: TcpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = tcp._open_socket

    def connect_slowly(address: Address, stop_s: float) -> socket.socket:
        time.sleep(0.4)
        return connect(address, stop_s)

    monkeypatch.setattr(tcp, "_open_socket", connect_slowly)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_s = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"did not finish the handshake in 0\.6 s"):
            transport.connect(Address("127.0.0.1", silent.getsockname()[1]), HELLO, deadline_s=0.6)
        assert time.monotonic() - start_s < 0.4 + 0.6


def test_a_closed_listener_holds_no_descriptor(transport: TcpTransport) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = count()
    listeners = [transport.listen(HERE, "server") for _ in range(5)]
    for listener in listeners:
        listener.close()
        listener.close()  # twice does nothing
        assert listener.accepted() == []
        assert listener.fileno() == -1
    stop_s = time.monotonic() + LIMIT_S
    while count() > before and time.monotonic() < stop_s:
        time.sleep(0.01)
    assert count() <= before


def test_a_client_that_authenticates_while_the_listener_closes_is_turned_away(
    transport: TcpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_closed, begun = threading.Event(), threading.Event()

    def authenticate(*args, **kwargs) -> Hello:
        begun.set()
        assert is_closed.wait(LIMIT_S)
        return HELLO

    monkeypatch.setattr(tcp, "authenticate_server", authenticate)
    listener = transport.listen(HERE, "server")
    freed = listener.fileno()
    with socket.create_connection((listener.address.host, listener.address.port)) as client:
        assert begun.wait(LIMIT_S)
        listener.close()
        # Somebody else has the descriptor's number now.
        event = os.eventfd(0, os.EFD_NONBLOCK)
        other = os.dup2(event, freed)
        is_closed.set()
        client.settimeout(LIMIT_S)
        assert client.recv(1) == b""
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
    for descriptor in {event, other}:
        os.close(descriptor)


def test_a_client_that_nobody_accepted_is_turned_away(transport: TcpTransport) -> None:
    listener = transport.listen(HERE, "server")
    channel = transport.connect(listener.address, HELLO)
    listener.close()
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    assert poll.poll(LIMIT_S * 1e3)
    with pytest.raises(RemoteError):
        channel.receive_into(memoryview(bytearray(1)))
    channel.close()


def test_all_addresses_of_a_host_share_one_deadline(
    transport: TcpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts_s = []

    class Unanswered(socket.socket):
        def connect(self, where: object) -> None:
            timeouts_s.append(self.gettimeout())
            time.sleep(0.3)
            raise TimeoutError

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))] * 5
    monkeypatch.setattr(tcp.socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(tcp.socket, "socket", Unanswered)
    with pytest.raises(DeadlineExceeded, match=r"did not answer in 0\.5 s"):
        transport.connect(Address("several", 9), HELLO, deadline_s=0.5)
    assert len(timeouts_s) == 2
    assert timeouts_s[1] < 0.25


@pytest.mark.parametrize(
    ("host", "port"),
    [("127.0.0.1", 70_000), ("127.0.0.1", -1), ("127.0.0.1", 0), ("a" * 64, 7070)],
)
def test_what_is_no_address_cannot_be_reached(
    transport: TcpTransport, host: str, port: int
) -> None:
    with pytest.raises(LinkClosed, match="is no address of a server"):
        transport.connect(Address(host, port), HELLO)


@pytest.mark.parametrize("text", ["h:\u00b2", "h:\u0663", "a" * 64 + ":7070", "a..b:7070", "[]:7"])
def test_what_is_no_address_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_port_0_is_for_listening_alone() -> None:
    assert parse_address("127.0.0.1:0", is_listening=True) == HERE
    with pytest.raises(UsageError, match="port 0, where nobody listens"):
        parse_address("127.0.0.1:0")


def test_more_clients_than_may_wait_are_turned_away(
    transport: TcpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "MAX_ACCEPTED", 2)
    listener = transport.listen(HERE, "server")
    channels = [transport.connect(listener.address, HELLO) for _ in range(5)]
    poll = select.poll()
    for channel in channels:
        poll.register(channel.fileno(), select.POLLIN)
    stop_s = time.monotonic() + LIMIT_S
    while len(poll.poll(LIMIT_S * 1e3)) < 3 and time.monotonic() < stop_s:
        time.sleep(0.001)
    accepted = listener.accepted()
    assert len(accepted) == 2
    listener.close()
    for channel in (*channels, *(channel for _, channel in accepted)):
        channel.close()
