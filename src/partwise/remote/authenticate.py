"""Mutual authentication by the cluster token, before a link exists.

Challenge and response with HMAC-SHA-256: the client proves itself first, so that a stranger
learns nothing from a server. Each side's role is in what it signs, so that an answer cannot
be reflected, and so is the channel's binding (empty on plain TCP, the exporter of a TLS
channel). The client's Hello, who it is and what it wants, is signed as well.

    client -> server   magic, nonce
    server -> client   magic, nonce
    client -> server   length, Hello, HMAC(token, "client", nonces, binding, Hello)
    server -> client   length, Welcome, HMAC(token, "server", nonces, binding, Hello, Welcome)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import struct
import time
from pathlib import Path

import msgspec

from partwise.errors import AuthenticationError, DeadlineExceeded, LaunchError, LinkClosed

MIN_TOKEN_BYTES = 16
HANDSHAKE_S = 10.0

_MAGIC = b"PWH1"
_NONCE_BYTES = 32
_MAC_BYTES = 32
_LENGTH = struct.Struct("<H")


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """Who connects: the coordinator of ``deployment``, or the part ``name`` of it under
    ``plan_version`` (0: it does not say)."""

    role: str
    name: str
    deployment: str
    plan_version: int = 0


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The server's answer."""

    server: str


def new_token() -> bytes:
    """A random token for a cluster."""
    return secrets.token_hex(32).encode()


def read_token(path: Path) -> bytes:
    """The token in a file, without surrounding white space.

    Raises:
        LaunchError: the file cannot be read or its token is too short.
    """
    try:
        token = path.read_bytes().strip()
    except OSError as exc:
        raise LaunchError(f"cannot read the token file {path}: {exc.strerror}") from exc
    if len(token) < MIN_TOKEN_BYTES:
        raise LaunchError(
            f"the token in {path} has {len(token)} bytes, at least {MIN_TOKEN_BYTES} are needed:"
            " make one with `openssl rand -hex 32`"
        )
    return token


class _Stream:
    """Exact reads and writes on a blocking socket until one deadline."""

    def __init__(self, sock: socket.socket, peer: str, deadline_s: float) -> None:
        self._socket = sock
        self._peer = peer
        self._limit_s = deadline_s
        self._stop_s = time.monotonic() + deadline_s

    def _arm(self) -> None:
        left = self._stop_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _late(self, exc: Exception) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._peer} did not finish the handshake in {self._limit_s:g} s:"
            " is it a partwise server, and is it alive?"
        )

    def read(self, count: int) -> bytes:
        data = b""
        try:
            while len(data) < count:
                self._arm()
                piece = self._socket.recv(count - len(data))
                if not piece:
                    raise LinkClosed(f"{self._peer} closed the connection during the handshake")
                data += piece
        except TimeoutError as exc:
            raise self._late(exc) from exc
        except OSError as exc:
            raise LinkClosed(f"{self._peer} broke the handshake off: {exc.strerror}") from exc
        return data

    def write(self, data: bytes) -> None:
        try:
            self._arm()
            self._socket.sendall(data)
        except TimeoutError as exc:
            raise self._late(exc) from exc
        except OSError as exc:
            raise LinkClosed(f"{self._peer} broke the handshake off: {exc.strerror}") from exc

    def read_block(self) -> bytes:
        (length,) = _LENGTH.unpack(self.read(_LENGTH.size))
        return self.read(length)

    def write_block(self, data: bytes) -> None:
        self.write(_LENGTH.pack(len(data)) + data)


def _sign(token: bytes, role: bytes, transcript: bytes, *blocks: bytes) -> bytes:
    mac = hmac.new(token, b"partwise " + role + transcript, hashlib.sha256)
    for block in blocks:
        mac.update(_LENGTH.pack(len(block)) + block)
    return mac.digest()


def authenticate_client(
    sock: socket.socket,
    token: bytes,
    hello: Hello,
    *,
    peer: str,
    binding: bytes = b"",
    deadline_s: float = HANDSHAKE_S,
) -> Welcome:
    """Prove to the server at the other end of ``sock`` that we hold the token, and check
    that it does. Blocks until ``deadline_s`` at most.

    Raises:
        AuthenticationError: the tokens differ.
        DeadlineExceeded, LinkClosed: no answer.
    """
    stream = _Stream(sock, peer, deadline_s)
    ours = secrets.token_bytes(_NONCE_BYTES)
    stream.write(_MAGIC + ours)
    reply = stream.read(len(_MAGIC) + _NONCE_BYTES)
    if reply[: len(_MAGIC)] != _MAGIC:
        raise AuthenticationError(f"{peer} is not a partwise server: it sent {reply[:4]!r}")
    transcript = ours + reply[len(_MAGIC) :] + binding
    said = msgspec.msgpack.encode(hello)
    stream.write_block(said)
    stream.write(_sign(token, b"client", transcript, said))
    try:
        answer = stream.read_block()
        proof = stream.read(_MAC_BYTES)
    except LinkClosed as exc:
        raise AuthenticationError(
            f"{peer} refused our token: give both sides the same token file"
        ) from exc
    if not hmac.compare_digest(proof, _sign(token, b"server", transcript, said, answer)):
        raise AuthenticationError(f"{peer} does not hold our token: it may not be our server")
    return msgspec.msgpack.decode(answer, type=Welcome)


def authenticate_server(
    sock: socket.socket,
    token: bytes,
    *,
    peer: str,
    server: str,
    binding: bytes = b"",
    deadline_s: float = HANDSHAKE_S,
) -> Hello:
    """Check that the client at the other end of ``sock`` holds the token, and prove that we
    do. Blocks until ``deadline_s`` at most.

    Raises:
        AuthenticationError: the client does not hold the token.
        DeadlineExceeded, LinkClosed: no answer.
    """
    stream = _Stream(sock, peer, deadline_s)
    opening = stream.read(len(_MAGIC) + _NONCE_BYTES)
    if opening[: len(_MAGIC)] != _MAGIC:
        raise AuthenticationError(f"{peer} is not a partwise client: it sent {opening[:4]!r}")
    ours = secrets.token_bytes(_NONCE_BYTES)
    stream.write(_MAGIC + ours)
    transcript = opening[len(_MAGIC) :] + ours + binding
    said = stream.read_block()
    proof = stream.read(_MAC_BYTES)
    if not hmac.compare_digest(proof, _sign(token, b"client", transcript, said)):
        raise AuthenticationError(f"{peer} does not hold the token of this server")
    try:
        hello = msgspec.msgpack.decode(said, type=Hello)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise AuthenticationError(f"{peer} said no valid hello: {exc}") from exc
    answer = msgspec.msgpack.encode(Welcome(server=server))
    stream.write_block(answer)
    stream.write(_sign(token, b"server", transcript, said, answer))
    return hello
