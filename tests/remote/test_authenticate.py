from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from partwise.errors import AuthenticationError, DeadlineExceeded, LaunchError, LinkClosed
from partwise.remote import tcp
from partwise.remote.authenticate import (
    Hello,
    authenticate_client,
    authenticate_server,
    new_token,
    read_token,
)
from partwise.remote.channel import Channel
from partwise.remote.tcp import TcpListener, TcpTransport
from partwise.remote.transport import Address

pytestmark = pytest.mark.quiet

TOKEN, OTHER = b"the token of this cluster", b"the token of another one"
HELLO = Hello(role="part", name="part0", deployment="d")
ANYWHERE = Address("127.0.0.1", 0)


@contextmanager
def listening(token: bytes = TOKEN) -> Iterator[TcpListener]:
    listener = TcpTransport(token).listen(ANYWHERE, "server")
    try:
        yield listener
    finally:
        listener.close()


def accept(listener: TcpListener, within_s: float = 5.0) -> list[Hello]:
    """The clients that come in before the deadline; at most one."""
    stop_s = time.monotonic() + within_s
    while time.monotonic() < stop_s:
        clients = listener.accepted()
        for _, channel in clients:
            channel.close()
        if clients:
            return [hello for hello, _ in clients]
        time.sleep(0.005)
    return []


def talk(
    client: Callable[[socket.socket], object], server: Callable[[socket.socket], object]
) -> tuple[object, object]:
    """What each side of a connection returns or raises."""
    ends = socket.socketpair()
    outcomes: list[object] = [None, None]

    def run(index: int, side: Callable[[socket.socket], object]) -> None:
        try:
            outcomes[index] = side(ends[index])
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            outcomes[index] = exc
        finally:
            ends[index].close()

    threads = [threading.Thread(target=run, args=item) for item in enumerate((client, server))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return outcomes[0], outcomes[1]


def as_client(token: bytes, binding: bytes = b"") -> Callable[[socket.socket], object]:
    return lambda sock: authenticate_client(
        sock, token, HELLO, peer="the server", binding=binding, deadline_s=5
    )


def as_server(token: bytes, binding: bytes = b"") -> Callable[[socket.socket], object]:
    return lambda sock: authenticate_server(
        sock, token, peer="the client", server="s", binding=binding, deadline_s=5
    )


@pytest.mark.parametrize("binding", [b"", b"one TLS channel"])
def test_both_sides_of_one_token_learn_who_the_other_is(binding: bytes) -> None:
    welcome, hello = talk(as_client(TOKEN, binding), as_server(TOKEN, binding))
    assert hello == HELLO
    assert welcome.server == "s"


@pytest.mark.parametrize(("ours", "theirs"), [(TOKEN, OTHER), (OTHER, TOKEN)])
def test_a_wrong_token_is_refused_by_both_sides(ours: bytes, theirs: bytes) -> None:
    at_client, at_server = talk(as_client(ours), as_server(theirs))
    assert isinstance(at_client, AuthenticationError)
    assert "same token file" in str(at_client)
    assert isinstance(at_server, AuthenticationError)


def test_another_channel_binding_is_refused_by_both_sides() -> None:
    # Two TLS channels with somebody in the middle have two bindings.
    for outcome in talk(as_client(TOKEN, b"one channel"), as_server(TOKEN, b"another")):
        assert isinstance(outcome, AuthenticationError)


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece
        data += piece
    return data


def answer_with(proof: Callable[[bytes], bytes]) -> Callable[[socket.socket], object]:
    """A server without the token: it takes any client, and answers with what it makes of the
    client's own answer."""

    def serve(sock: socket.socket) -> None:
        sock.settimeout(5)
        opening = receive(sock, 36)
        sock.sendall(opening)  # the client's own nonce
        length = receive(sock, 2)
        said = receive(sock, int.from_bytes(length, "little"))
        sock.sendall(length + said + proof(receive(sock, 32)))

    return serve


@pytest.mark.parametrize("proof", [lambda mac: mac, lambda mac: bytes(32)], ids=["same", "zeros"])
def test_a_server_that_reflects_the_answer_is_refused(proof: Callable[[bytes], bytes]) -> None:
    at_client, _ = talk(as_client(TOKEN), answer_with(proof))
    assert isinstance(at_client, AuthenticationError)
    assert "does not hold our token" in str(at_client)


def test_the_proof_of_a_client_is_not_one_of_a_server() -> None:
    from partwise.remote.authenticate import _sign

    assert _sign(TOKEN, b"client", b"nonces", b"said") != _sign(
        TOKEN, b"server", b"nonces", b"said"
    )


def test_a_changed_hello_is_refused() -> None:
    """Somebody on the way must not choose who the client is."""

    class Changing:
        """The client's socket, but its Hello leaves as another one."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def sendall(self, data: bytes) -> None:
            self._sock.sendall(data.replace(b"part0", b"part1"))

        def __getattr__(self, name: str) -> object:
            return getattr(self._sock, name)

    _, at_server = talk(lambda sock: as_client(TOKEN)(Changing(sock)), as_server(TOKEN))
    assert isinstance(at_server, AuthenticationError)


def test_a_token_opens_a_link_and_a_wrong_one_does_not() -> None:
    with listening() as listener:
        with pytest.raises(AuthenticationError, match="same token file"):
            TcpTransport(OTHER).connect(listener.address, HELLO)
        assert accept(listener, 0.1) == []
        TcpTransport(TOKEN).connect(listener.address, HELLO).close()
        assert accept(listener) == [HELLO]


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n" + b"x" * 40, bytes(100), b"PWH1" + b"\xff" * 300]
)
def test_a_stranger_is_sent_away_and_the_server_goes_on(said: bytes) -> None:
    with listening() as listener:
        address = (listener.address.host, listener.address.port)
        with socket.create_connection(address, timeout=5) as stranger:
            heard = b""
            with contextlib.suppress(OSError):  # it may be sent away before it is done
                stranger.sendall(said)
                stranger.shutdown(socket.SHUT_WR)
                while piece := stranger.recv(1000):
                    heard += piece
            assert len(heard) <= 36, "it learnt more than a nonce"
        TcpTransport(TOKEN).connect(listener.address, HELLO).close()
        assert accept(listener) == [HELLO]


def test_silent_clients_are_dropped_at_the_deadline_and_hold_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_S", 0.4)
    with listening() as listener:
        address = (listener.address.host, listener.address.port)
        silent = [socket.create_connection(address, timeout=5) for _ in range(3)]
        start_s = time.monotonic()
        TcpTransport(TOKEN).connect(listener.address, HELLO).close()
        assert accept(listener) == [HELLO]
        assert time.monotonic() - start_s < 0.35, "it waited for the silent ones"
        for sock in silent:
            assert sock.recv(1) == b""
            sock.close()
        assert time.monotonic() - start_s < 3


def test_strangers_beyond_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_S", 1.0)
    monkeypatch.setattr(tcp, "MAX_PENDING_HANDSHAKES", 2)
    with listening() as listener:
        address = (listener.address.host, listener.address.port)
        silent = [socket.create_connection(address, timeout=5) for _ in range(3)]
        start_s = time.monotonic()
        assert silent[2].recv(1) == b""
        assert time.monotonic() - start_s < 0.5
        for sock in silent:
            sock.close()


def test_a_server_that_never_answers_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(DeadlineExceeded, match=rf"{address} did not finish .* 0\.2 s"):
            TcpTransport(TOKEN).connect(address, HELLO, deadline_s=0.2)


def as_ssh_server(sock: socket.socket) -> None:
    sock.sendall(b"SSH-2.0-OpenSSH" + b"." * 30)
    receive(sock, 36)


def test_a_server_of_something_else_is_named() -> None:
    at_client, _ = talk(as_client(TOKEN), as_ssh_server)
    assert isinstance(at_client, AuthenticationError)
    assert "not a partwise server" in str(at_client)


def test_an_address_where_nobody_listens_is_named_with_what_to_do() -> None:
    with listening() as listener:
        address = listener.address
        TcpTransport(TOKEN).connect(address, HELLO).close()
        assert accept(listener) == [HELLO]  # it listens, and now waits for the next client
        time.sleep(0.05)
        with pytest.raises(LaunchError, match=f"cannot listen on {address}"):
            TcpTransport(TOKEN).listen(address, "second")
    with pytest.raises(LinkClosed, match=f"{address}.*partwise server --listen"):
        TcpTransport(TOKEN).connect(address, HELLO, deadline_s=2)


def test_tokens_come_from_files_without_their_white_space(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = new_token()
    path.write_bytes(b"\n " + token + b"\n")
    assert read_token(path) == token
    assert new_token() != token
    path.write_bytes(b"short\n")
    with pytest.raises(LaunchError, match="5 bytes, at least 16"):
        read_token(path)
    with pytest.raises(LaunchError, match="No such file"):
        read_token(tmp_path / "missing")


def test_clients_that_nobody_accepted_are_let_go_when_the_listener_closes() -> None:
    with listening() as listener:
        channel = TcpTransport(TOKEN).connect(listener.address, HELLO)
        time.sleep(0.05)
    stop_s = time.monotonic() + 5
    with pytest.raises(LinkClosed):
        _read_until(channel, stop_s)
    channel.close()


def _read_until(channel: Channel, stop_s: float) -> None:
    while time.monotonic() < stop_s:
        channel.receive_into(memoryview(bytearray(1)))
        time.sleep(0.005)
