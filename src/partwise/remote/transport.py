"""The seam between servers and what joins them: listen, and connect, authenticated.

`tcp.py` joins machines and processes; `memory.py` joins threads of one process, for tests.
"""

from __future__ import annotations

import ipaddress
from typing import Protocol

import msgspec

from partwise.errors import UsageError
from partwise.remote.authenticate import Hello
from partwise.remote.channel import Channel

CONNECT_S = 10.0
MAX_PORT = 65535


class Address(msgspec.Struct, frozen=True):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it can be reached from its own machine only."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(text: str, *, is_listening: bool = False) -> Address:
    """``HOST:PORT`` or ``[IPV6]:PORT``, to connect to or for ``is_listening`` to listen at.

    Raises:
        UsageError: not of that form, no name of a host, a port above 65535, or port 0 (any free
            one) to connect to.
    """
    host, _, port = text.strip().rpartition(":")
    host = host.strip("[]")
    is_port = port.isascii() and port.isdigit() and len(port) <= 8 and int(port) <= MAX_PORT
    if not host or not is_port:
        raise UsageError(f"{text!r} is not HOST:PORT, for example 10.0.0.5:7070")
    if int(port) == 0 and not is_listening:
        raise UsageError(f"{text!r} has port 0, where nobody listens: give the server's own port")
    try:
        host.encode("idna")  # as the resolver will
    except UnicodeError as exc:
        raise UsageError(f"{host!r} is not the name of a host ({exc}): correct it") from exc
    return Address(host, int(port))


class Listener(Protocol):
    """Accepts and authenticates clients without blocking its owner."""

    address: Address

    def fileno(self) -> int:
        """A descriptor that polls readable when `accepted` has a client."""
        ...

    def accepted(self) -> list[tuple[Hello, Channel]]:
        """The clients that authenticated since the last call."""
        ...

    def close(self) -> None: ...


class Transport(Protocol):
    """One way to join servers. It holds the cluster token."""

    def listen(self, address: Address, server: str) -> Listener:
        """Listen at ``address`` (port 0: any free one) as ``server``.

        Raises:
            LaunchError: the address is in use or not ours.
        """
        ...

    def connect(self, address: Address, hello: Hello, *, deadline_s: float = CONNECT_S) -> Channel:
        """An authenticated channel to the server at ``address``. Blocks until ``deadline_s``.

        Raises:
            LinkClosed: nobody listens there.
            DeadlineExceeded: no answer.
            AuthenticationError: the tokens differ.
        """
        ...
