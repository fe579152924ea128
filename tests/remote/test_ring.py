from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from partwise.remote import link as link_module
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Frame, FrameKind
from partwise.remote.link import Link
from partwise.remote.poller import Poller
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address

FRAME_BYTES = 32 << 20
NUM_NODES, NUM_ROUNDS = 4, 2
DEADLINE_S = 30.0
TOKEN = b"a token of a cluster of tests"


class Node(threading.Thread):
    """Passes large frames to both neighbours at once: a round is over when both sent one."""

    def __init__(self, number: int, links: list[Link]) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.is_right = True
        self._poller = Poller(self._on_frame, self._on_lost, is_pressed=True)
        self._links = links
        self._num_received = {link.name: 0 for link in links}

    def run(self) -> None:
        stop_s = time.monotonic() + DEADLINE_S
        for link in self._links:
            self._poller.add_link(link)
        for round_number in range(NUM_ROUNDS):
            # One tensor for both links, as a part that feeds two others would send it.
            tensor = np.full(FRAME_BYTES, self.number * NUM_ROUNDS + round_number, np.int8)
            frame = Frame(kind=FrameKind.FORWARD, step=round_number, tensors=(tensor,))
            for link in self._links:
                link.send(frame)
            while min(self._num_received.values()) <= round_number and time.monotonic() < stop_s:
                self._poller.poll(0.1)
        while any(link.has_output for link in self._links) and time.monotonic() < stop_s:
            self._poller.poll(0.1)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        expected = int(link.name) * NUM_ROUNDS + self._num_received[link.name]
        self.is_right &= bool((frame.tensors[0] == expected).all())
        self._num_received[link.name] += 1
        link.release(frame)

    def _on_lost(self, link: Link, error: Exception) -> None:
        self.is_right &= self.is_finished  # a neighbour that is done may leave first

    @property
    def is_finished(self) -> bool:
        return min(self._num_received.values()) == NUM_ROUNDS

    def close(self) -> None:
        self._poller.close()


def join_ring() -> list[list[Link]]:
    """For each node its links over TCP to the node before and after it."""
    transport = TcpTransport(TOKEN)
    links: list[list[Link]] = [[] for _ in range(NUM_NODES)]
    for number in range(NUM_NODES):
        after = (number + 1) % NUM_NODES
        listener = transport.listen(Address("127.0.0.1", 0), str(after))
        hello = Hello(role="part", name=str(number), deployment="ring")
        links[number].append(Link(transport.connect(listener.address, hello), str(after)))
        clients: list = []
        stop_s = time.monotonic() + 5
        while not clients and time.monotonic() < stop_s:
            clients = listener.accepted()
        links[after].append(Link(clients[0][1], str(number)))
        listener.close()
    return links


@pytest.mark.parametrize("window_bytes", [link_module.WINDOW_BYTES, 1 << 20])
def test_a_ring_that_passes_large_frames_both_ways_does_not_stall(
    window_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "WINDOW_BYTES", window_bytes)
    nodes = [Node(number, links) for number, links in enumerate(join_ring())]
    stop_s = time.monotonic() + DEADLINE_S
    for node in nodes:
        node.start()
    for node in nodes:
        node.join(max(0.0, stop_s - time.monotonic()))
    stuck = [node.number for node in nodes if node.is_alive() or not node.is_finished]
    assert not stuck, f"nodes {stuck} did not finish in {DEADLINE_S:g} s"
    assert all(node.is_right for node in nodes)
    for node in nodes:
        node.close()
