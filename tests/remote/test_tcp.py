"""TCP where it fails: deadlines, and clients that come while the listener goes."""

from __future__ import annotations

import os
import select
import socket
import threading
import time

import pytest

from partwise.errors import DeadlineExceeded, RemoteError
from partwise.remote import tcp
from partwise.remote.authenticate import Hello, new_token
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address

HELLO = Hello(role="coordinator", name="coordinator", deployment="test")
HERE = Address("127.0.0.1", 0)
LIMIT_S = 5.0


@pytest.fixture
def transport() -> TcpTransport:
    return TcpTransport(new_token())


def test_the_deadline_covers_connecting_and_the_handshake_together(
    transport: TcpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def connect_slowly(*args, **kwargs) -> socket.socket:
        time.sleep(0.4)
        return connect(*args, **kwargs)

    monkeypatch.setattr(tcp.socket, "create_connection", connect_slowly)
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
