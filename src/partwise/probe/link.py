"""Round trip and bandwidth of the link to a listening server, over the project's own frames.

Pings are answered at once. Data frames an idle server receives whole and refuses one by one,
each with a line: those lines say when they had arrived.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from partwise.cluster.description import LinkSpeed
from partwise.errors import DeadlineExceeded, FrameError, LaunchError, RemoteError
from partwise.probe.spread import Spread, spread
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Frame, FrameKind, Row
from partwise.remote.link import Link
from partwise.remote.messages import Failed, Ping, Pong, Refused, decode_message, message_frame
from partwise.remote.poller import Poller
from partwise.remote.transport import Address, Transport

ANSWER_S = 5.0
"""The deadline of each answer."""
NUM_PINGS, NUM_TRANSFERS = 50, 5
LEAST_TRANSFER_S = 0.2
"""A transfer is made larger until it takes so long, for then the round trip is small beside it."""
FIRST_BYTES, MOST_BYTES, FRAME_BYTES = 64 << 10, 256 << 20, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """What was measured between this machine and a server, with spreads."""

    round_trip_s: Spread
    bandwidth_bytes_per_s: Spread

    @property
    def speed(self) -> LinkSpeed:
        """The medians, as a cluster file has them."""
        return LinkSpeed(
            bandwidth_bytes_per_s=float(f"{self.bandwidth_bytes_per_s.median:.4g}"),
            round_trip_s=float(f"{self.round_trip_s.median:.4g}"),
        )


def measure_link(transport: Transport, address: Address) -> LinkFigures:
    """Measure the way to the server at ``address``, which must serve nobody else.

    Raises:
        LinkClosed, AuthenticationError: there is no such server, or it has another token.
        LaunchError: it serves somebody.
        DeadlineExceeded: an answer took longer than ANSWER_S.
    """
    hello = Hello(role="coordinator", name="probe", deployment=secrets.token_hex(8))
    conversation = _Conversation(Link(transport.connect(address, hello), f"server {address}"))
    try:
        round_trip_s = spread([conversation.ping() for _ in range(NUM_PINGS)])
        return LinkFigures(
            round_trip_s=round_trip_s,
            bandwidth_bytes_per_s=_measure_bandwidth(conversation, round_trip_s.median),
        )
    finally:
        conversation.close()


def _measure_bandwidth(conversation: _Conversation, round_trip_s: float) -> Spread:
    num_bytes = FIRST_BYTES
    while conversation.transfer(num_bytes) < LEAST_TRANSFER_S and num_bytes < MOST_BYTES:
        num_bytes *= 2
    times_s = [conversation.transfer(num_bytes) for _ in range(NUM_TRANSFERS)]
    # The first byte's way there and the last answer's way back are no transfer.
    return spread([num_bytes / max(t - round_trip_s, t / 2) for t in times_s])


class _Conversation:
    """One link, and what came back on it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._poller = Poller(self._on_frame, self._on_lost, is_pressed=True)
        self._poller.add_link(link)
        self._num_answers = 0
        self._step = 0
        # Noise, which nothing on the way compresses.
        self._noise = np.frombuffer(secrets.token_bytes(FRAME_BYTES), np.int8)

    def ping(self) -> float:
        """Seconds of one round trip."""
        start_s = time.perf_counter()
        self._link.send(message_frame(Ping(number=0, sent_ns=time.monotonic_ns())))
        self._wait_for(1)
        return time.perf_counter() - start_s

    def transfer(self, num_bytes: int) -> float:
        """Seconds until ``num_bytes`` in data frames have arrived and been answered."""
        frame_bytes = min(num_bytes, FRAME_BYTES)
        payload = self._noise[:frame_bytes]
        start_s = time.perf_counter()
        for _ in range(num_bytes // frame_bytes):
            self._step += 1
            self._link.send(
                Frame(
                    kind=FrameKind.FORWARD,
                    step=self._step,
                    rows=(Row(0, 0, 1),),
                    tensors=(payload,),
                )
            )
        self._wait_for(num_bytes // frame_bytes)
        return time.perf_counter() - start_s

    def close(self) -> None:
        self._poller.close()

    def _wait_for(self, count: int) -> None:
        """Wait for ``count`` answers, for none longer than ANSWER_S."""
        wanted, self._num_answers = count, 0
        seen, stop_s = 0, time.monotonic() + ANSWER_S
        while self._num_answers < wanted:
            self._poller.poll(0.2)
            if self._num_answers > seen:
                seen, stop_s = self._num_answers, time.monotonic() + ANSWER_S
            elif time.monotonic() > stop_s:
                raise DeadlineExceeded(
                    f"{self._link.name} gave {seen} of {wanted} answers, then none for"
                    f" {ANSWER_S:g} s: is its host alive, or the link slower than"
                    f" {FRAME_BYTES / ANSWER_S / 1e6:.1f} MB/s?"
                )

    def _on_frame(self, link: Link, frame: Frame) -> None:
        if frame.kind is not FrameKind.CONTROL:
            raise FrameError(f"{link.name} sent a {frame.kind.name} frame to a probe")
        match decode_message(frame):
            case Pong() | Refused():
                self._num_answers += 1
            case Failed(text=text):
                raise LaunchError(text)
            case other:
                raise FrameError(f"{link.name} sent {type(other).__name__} to a probe")

    def _on_lost(self, link: Link, error: RemoteError) -> NoReturn:
        raise error
