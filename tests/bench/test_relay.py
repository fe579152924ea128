"""The relay with real sockets: how late, how fast, whole and in order, and how it ends."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay import Relay, Route
from relay_flows import Line
from relaying import run_relay

pytestmark = pytest.mark.quiet

DEADLINE_S = 20.0
SLACK_S = 2e-3
"""What a busy machine adds to the fastest of several round trips."""


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that gives each connection to ``serve`` in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    threading.Thread(target=work, args=(sock,), daemon=True).start()

        def work(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                sock.settimeout(DEADLINE_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                serve(sock)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE_S)


def echo(sock: socket.socket) -> None:
    """Send back what comes, then end."""
    while data := sock.recv(1 << 16):
        sock.sendall(data)


@contextlib.contextmanager
def running(relay: Relay) -> Iterator[list[int]]:
    """The ports of a relay that runs in a thread."""
    reader, writer = os.pipe()
    relay.watch(reader)

    def run() -> None:
        while reader not in relay.step():
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield [port for _, port in relay.addresses]
    finally:
        os.write(writer, b"x")
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "the relay hangs"
        relay.close()
        os.close(reader)
        os.close(writer)


def route(port: int, line: int = 0) -> Route:
    return Route(listen=("127.0.0.1", 0), target=("127.0.0.1", port), line=line)


@contextlib.contextmanager
def relaying(port: int, delay_s: float = 0.0, bytes_per_s: float | None = None) -> Iterator[int]:
    """The port of a relay to ``port``, both ways alike."""
    lines = (
        Line(delay_s=delay_s, bytes_per_s=bytes_per_s),
        Line(delay_s=delay_s, bytes_per_s=bytes_per_s),
    )
    with running(Relay([route(port)], lines)) as (found,):
        yield found


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive(sock: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes and (more := sock.recv(num_bytes - len(data))):
        data += more
    return data


def time_round_trips(sock: socket.socket, num_bytes: int, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        start_s = time.monotonic()
        sock.sendall(bytes(num_bytes))
        assert len(receive(sock, num_bytes)) == num_bytes
        taken.append(time.monotonic() - start_s)
    return taken


@pytest.mark.parametrize("delay_ms", [0, 1, 5, 20])
def test_each_way_takes_the_delay_and_little_more(delay_ms: int) -> None:
    with listening(echo) as server, relaying(server, delay_ms / 1e3) as port, connect(port) as sock:
        taken = time_round_trips(sock, 2304, 12)
    assert min(taken) >= 2 * delay_ms / 1e3
    assert min(taken) < 2 * delay_ms / 1e3 + SLACK_S


def test_a_line_carries_so_many_bytes_a_second_then_the_delay_follows() -> None:
    with (
        listening(echo) as server,
        relaying(server, 0.005, bytes_per_s=1.25e6) as port,
        connect(port) as sock,
    ):
        taken = min(time_round_trips(sock, 12_500, 3))
    expected = 2 * (0.005 + 12_500 / 1.25e6)
    assert expected <= taken < expected + SLACK_S


def test_connections_share_a_line() -> None:
    with listening(echo) as server, relaying(server, bytes_per_s=1.25e6) as port:
        socks = [connect(port) for _ in range(4)]
        start_s = time.monotonic()
        for sock in socks:
            sock.sendall(bytes(12_500))
        assert all(len(receive(sock, 12_500)) == 12_500 for sock in socks)
        taken = time.monotonic() - start_s
        for sock in socks:
            sock.close()
    assert taken >= 4 * 12_500 / 1.25e6


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 200_000), min_size=1, max_size=6),
    delay_ms=st.sampled_from([0.0, 0.3, 2.0]),
    bytes_per_s=st.sampled_from([None, 5e7]),
    num_connections=st.integers(1, 5),
)
def test_bytes_arrive_whole_and_in_order_both_ways(
    sizes: list[int], delay_ms: float, bytes_per_s: float | None, num_connections: int
) -> None:
    payloads = [os.urandom(sum(sizes)) for _ in range(num_connections)]
    with listening(echo) as server, relaying(server, delay_ms / 1e3, bytes_per_s) as port:
        socks = [connect(port) for _ in payloads]
        senders = []
        for sock, payload in zip(socks, payloads, strict=True):

            def send(sock: socket.socket = sock, payload: bytes = payload) -> None:
                rest = memoryview(payload)
                for size in sizes:
                    sock.sendall(rest[:size])
                    rest = rest[size:]
                sock.shutdown(socket.SHUT_WR)

            senders.append(threading.Thread(target=send, daemon=True))
            senders[-1].start()
        for sock, payload in zip(socks, payloads, strict=True):
            assert receive(sock, len(payload)) == payload
            assert sock.recv(1) == b""  # the end comes after the last byte, not before
            sock.close()
        for sender in senders:
            sender.join(DEADLINE_S)


def test_an_end_is_passed_on_and_the_other_direction_goes_on() -> None:
    def answer_at_the_end(sock: socket.socket) -> None:
        data = b""
        while more := sock.recv(1 << 12):
            data += more
        sock.sendall(data[::-1])

    with (
        listening(answer_at_the_end) as server,
        relaying(server, 0.01) as port,
        connect(port) as sock,
    ):
        sock.sendall(b"abc")
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 4) == b"cba"


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_goes_is_seen_by_the_server(is_reset: bool) -> None:
    seen: list[str] = []
    is_over = threading.Event()

    def watch(sock: socket.socket) -> None:
        try:
            while sock.recv(1 << 12):
                pass
            seen.append("end")
        except OSError:
            seen.append("end")
        is_over.set()

    with listening(watch) as server, relaying(server, 0.005) as port:
        sock = connect(port)
        sock.sendall(b"abc")
        if is_reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        assert is_over.wait(DEADLINE_S)
    assert seen == ["end"]


def test_a_server_that_goes_is_seen_by_the_client_though_it_still_sends() -> None:
    with (
        listening(lambda sock: None) as server,
        relaying(server, 0.002) as port,
        connect(port) as sock,
    ):
        assert sock.recv(1) == b""
        with pytest.raises(OSError):  # noqa: PT012 - whichever call meets the closed socket
            while True:
                sock.sendall(bytes(1000))
                time.sleep(1e-3)


def test_nobody_behind_a_relay_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port_of_nobody = gone.getsockname()[1]
    with (
        relaying(port_of_nobody) as port,
        connect(port) as sock,
        contextlib.suppress(ConnectionResetError),
    ):
        assert sock.recv(1) == b""


def test_a_slow_receiver_does_not_hold_up_others() -> None:
    def never_read(sock: socket.socket) -> None:
        sock.recv(1)
        time.sleep(0.5)

    with (
        listening(never_read) as slow,
        listening(echo) as quick,
        running(Relay([route(slow), route(quick)], (Line(), Line()))) as ports,
        connect(ports[0]) as stuck,
        connect(ports[1]) as sock,
        selectors.DefaultSelector() as selector,
    ):
        stuck.setblocking(False)
        selector.register(stuck, selectors.EVENT_WRITE)
        sent = 0
        while selector.select(0.1):  # until nobody takes more: queues have a bound
            sent += stuck.send(bytes(1 << 16))
        assert sent < 64 << 20
        assert time_round_trips(sock, 100, 3)


def test_a_relay_that_waits_sleeps() -> None:
    """Neither broken sockets nor pieces that are due late keep its processor busy."""
    with listening(echo) as server, relaying(server, 0.3) as port:
        sock = connect(port)
        sock.sendall(b"abc")
        time.sleep(0.05)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()  # broken, while what it sent is under way for 0.3 s
        start_s = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - start_s < 0.1


def test_a_relay_in_a_process_changes_while_it_runs() -> None:
    with (
        listening(echo) as server,
        run_relay([f"127.0.0.1:0=127.0.0.1:{server}"]) as relay,
        connect(int(relay.addresses[0].rpartition(":")[2])) as sock,
    ):
        for delay_s in (0.0, 0.01, 0.0):
            relay.change(delay_s=delay_s, mbit_per_s=None)
            taken = min(time_round_trips(sock, 100, 6))
            assert 2 * delay_s <= taken < 2 * delay_s + 2 * SLACK_S
        relay.change(delay_s=0.0, mbit_per_s=10.0)
        assert min(time_round_trips(sock, 12_500, 2)) >= 2 * 12_500 * 8 / 10e6


def test_who_comes_late_gets_all_of_it() -> None:
    """More than sockets take at once: what is written in part goes on where it stopped."""
    payload = os.urandom(6 << 20)
    found: list[bytes] = []
    is_over = threading.Event()

    def read_late(sock: socket.socket) -> None:
        time.sleep(0.2)
        found.append(receive(sock, len(payload) + 1))
        is_over.set()

    with listening(read_late) as server, relaying(server) as port, connect(port) as sock:
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
        assert is_over.wait(DEADLINE_S)
    assert found == [payload]


@pytest.mark.parametrize("answer_bytes", [1, 12_500])
def test_two_routes_of_opposite_directions_use_opposite_lines(answer_bytes: int) -> None:
    """Of 12,500 bytes there and an answer those are slow that the second line carries."""
    lines = Line(), Line(bytes_per_s=1.25e6)

    def answer(sock: socket.socket) -> None:
        receive(sock, 12_500)
        sock.sendall(bytes(answer_bytes))

    taken = []
    with (
        listening(answer) as server,
        running(Relay([route(server, line) for line in (0, 1)], lines)) as ports,
    ):
        for port in ports:
            with connect(port) as sock:
                start_s = time.monotonic()
                sock.sendall(bytes(12_500))
                assert len(receive(sock, answer_bytes)) == answer_bytes
                taken.append(time.monotonic() - start_s)
    assert (taken[0] >= 0.01) == (answer_bytes == 12_500)
    assert 0.01 <= taken[1] < 0.02
