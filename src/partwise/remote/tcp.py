"""TCP: connect to a server, listen for clients. Both authenticate before a link exists.

A connection beyond loopback belongs in TLS: it goes between the socket and
`authenticate_*`, with its exporter as the binding.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time

from partwise.errors import DeadlineExceeded, LaunchError, LinkClosed, RemoteError
from partwise.remote.authenticate import (
    HANDSHAKE_S,
    Hello,
    authenticate_client,
    authenticate_server,
)
from partwise.remote.channel import Channel, TcpChannel
from partwise.remote.transport import CONNECT_S, MAX_PORT, Address

MAX_PENDING_HANDSHAKES = 64
MAX_ACCEPTED = 64
"""Clients that may wait until the server's loop takes them; more are turned away."""


class TcpTransport:
    """Joins servers over TCP by the cluster token."""

    def __init__(self, token: bytes) -> None:
        self._token = token

    def listen(self, address: Address, server: str) -> TcpListener:
        """See `Transport.listen`."""
        return TcpListener(address, self._token, server)

    def connect(
        self, address: Address, hello: Hello, *, deadline_s: float = CONNECT_S
    ) -> TcpChannel:
        """See `Transport.connect`."""
        return _connect(address, self._token, hello, deadline_s)


def _connect(address: Address, token: bytes, hello: Hello, deadline_s: float) -> TcpChannel:
    stop_s = time.monotonic() + deadline_s
    try:
        sock = _open_socket(address, stop_s)
    except TimeoutError as exc:
        raise DeadlineExceeded(
            f"server {address} did not answer in {deadline_s:g} s: is its host up and reachable?"
        ) from exc
    except OSError as exc:
        raise LinkClosed(
            f"cannot reach server {address}: {exc.strerror or exc}; start it there with"
            f" `partwise server --listen {address} --token-file FILE`"
        ) from exc
    except (ValueError, OverflowError) as exc:  # of UnicodeError, which IDNA raises, too
        raise LinkClosed(f"{address} is no address of a server ({exc}): correct it") from exc
    left_s = stop_s - time.monotonic()
    try:
        authenticate_client(sock, token, hello, peer=f"server {address}", deadline_s=left_s)
        return TcpChannel(sock)
    except DeadlineExceeded as exc:
        sock.close()
        # With the deadline that the caller set, of which the handshake had only the rest.
        raise DeadlineExceeded(
            f"server {address} did not finish the handshake in {deadline_s:g} s:"
            " is it a partwise server, and is it alive?"
        ) from exc
    except BaseException:
        sock.close()
        raise


def _open_socket(address: Address, stop_s: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers, all of them until ``stop_s``."""
    error: OSError = OSError("the name has no address")
    if not 0 < address.port <= MAX_PORT:  # getaddrinfo takes it modulo 65536
        raise ValueError(f"the port must be 1 to {MAX_PORT}")
    for family, kind, protocol, _, where in socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        left_s = stop_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(left_s)
        try:
            sock.connect(where)
            return sock
        except OSError as exc:
            sock.close()
            error = exc
    raise error


class TcpListener:
    """Accepts clients, authenticates each in a thread of its own with a deadline, and hands
    the authenticated ones over. `fileno` polls readable when `accepted` has one."""

    def __init__(self, address: Address, token: bytes, server: str) -> None:
        self._token = token
        self._server = server
        self._socket = _listen(address)
        host, port = self._socket.getsockname()[:2]
        self.address = Address(host, port)
        self._accepted: queue.SimpleQueue[tuple[Hello, Channel]] = queue.SimpleQueue()
        self._slots = threading.BoundedSemaphore(MAX_PENDING_HANDSHAKES)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # of the event: after `close` its number may be another's
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name="listener", daemon=True).start()

    def fileno(self) -> int:
        """See `Listener.fileno`; -1 once closed."""
        return self._event

    def accepted(self) -> list[tuple[Hello, Channel]]:
        """The clients that authenticated since the last call."""
        with self._lock:
            if self._closed.is_set():
                return []
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._event)
            return self._take_all()

    def _take_all(self) -> list[tuple[Hello, Channel]]:
        clients = []
        while not self._accepted.empty():
            clients.append(self._accepted.get())
        return clients

    def close(self) -> None:
        """Stop listening, and close what nobody will accept any more."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            for _, channel in self._take_all():
                channel.close()
            os.close(self._event)
            self._event = -1
        # Closing alone would not wake the thread that accepts, and the port would stay open.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, peer = self._socket.accept()
            except OSError:
                self._closed.wait(0.1)  # out of descriptors: the next try may find one
                continue
            if not self._slots.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(
                target=self._handshake, args=(sock, f"{peer[0]}:{peer[1]}"), daemon=True
            ).start()

    def _handshake(self, sock: socket.socket, peer: str) -> None:
        try:
            hello = authenticate_server(
                sock, self._token, peer=peer, server=self._server, deadline_s=HANDSHAKE_S
            )
            self._hand_over(hello, TcpChannel(sock))
        except (RemoteError, OSError):
            sock.close()  # a stranger: it learns nothing, and the server goes on
        finally:
            self._slots.release()

    def _hand_over(self, hello: Hello, channel: Channel) -> None:
        with self._lock:
            if self._closed.is_set() or self._accepted.qsize() >= MAX_ACCEPTED:
                channel.close()
                return
            self._accepted.put((hello, channel))
            os.eventfd_write(self._event, 1)


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=128)
    except OSError as exc:
        raise LaunchError(
            f"cannot listen on {address}: {exc.strerror or exc}; choose another port,"
            " or port 0 for any free one"
        ) from exc
