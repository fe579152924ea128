"""A next part that takes nothing, and one that is only busy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from partwise.part import links as links_module
from partwise.part import server as server_module
from partwise.remote import link as link_module
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.link import Link
from partwise.remote.memory import CAPACITY_BYTES, MemoryTransport
from partwise.remote.messages import (
    Connect,
    Connected,
    Failed,
    Loaded,
)
from partwise.remote.transport import Address
from support.client import Client, serving, step

pytestmark = pytest.mark.quiet


@contextmanager
def feeding(path: Path) -> Iterator[tuple[Client, Link]]:
    """A server whose next part is the test; the coordinator's link and the next part's."""
    transport = MemoryTransport()
    with serving(transport=transport) as servers:
        listener = transport.listen(Address("127.0.0.1", 0), "other")
        client = Client(servers)
        client.assign(path, num_parts=2)
        client.hear(Loaded)
        client.tell(Connect(part="part1", host="127.0.0.1", port=listener.address.port))
        client.hear(Connected)
        ((_, channel),) = listener.accepted()
        yield client, Link(channel, "part0")
        client.close()
        listener.close()


def many(num_tokens: int, sequence: int = 0) -> Frame:
    row = Row(sequence, 0, num_tokens, int(RowFlag.PICK))
    ids = np.zeros(num_tokens, np.int64)
    return msgspec.structs.replace(step(0), rows=(row,), tensors=(ids,))


@pytest.fixture
def _short_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "STALL_S", 0.3)
    monkeypatch.setattr(server_module, "IDLE_POLL_S", 0.05)


@pytest.mark.usefixtures("_short_stall")
def test_a_next_part_that_takes_nothing_is_given_up(tiny_llama: Path) -> None:
    with feeding(tiny_llama) as (client, following):
        client.link.send(many(2 * CAPACITY_BYTES // 256))  # a token is 64 fp32
        failed = client.hear(Failed)
        assert failed.error == "DeadlineExceeded"
        assert "part0 lost its link to part1" in failed.text
        assert "took nothing for 0.3 s" in failed.text
        following.close()


@pytest.mark.usefixtures("_short_stall")
def test_a_next_part_that_computes_and_gives_no_credit_is_not_given_up(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "WINDOW_BYTES", 2000)
    with feeding(tiny_llama) as (client, following):
        frames: list[Frame] = []

        def read(duration_s: float) -> None:
            stop_s = time.monotonic() + duration_s
            while time.monotonic() < stop_s:
                frames.extend(following.receive())
                following.flush()
                client.frames.extend(client.link.receive())
                client.link.flush()
                time.sleep(0.005)

        for sequence in range(3):
            client.link.send(many(10, sequence))
        read(0.9)
        assert len(frames) == 1, "the second needs credit"
        following.release(frames[0])
        read(0.1)
        assert len(frames) == 2
        assert client.is_alive()
        assert not any(f.kind is FrameKind.CONTROL for f in client.frames), "it failed"
        following.close()
