"""A coordinator played by a test: one server over the memory transport, and a link to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from partwise.distributor import balance_layers, encode_plan
from partwise.errors import LinkClosed
from partwise.model import open_model
from partwise.remote.authenticate import Hello
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.link import Link
from partwise.remote.memory import MemoryTransport
from partwise.remote.messages import (
    Assign,
    Loaded,
    Message,
    Ping,
    Pong,
    decode_message,
    message_frame,
)
from partwise.remote.transport import Transport
from support.parts import Servers, counting_runner, ignore_pass

VERSION = 3
DEADLINE_S = 5.0
Wanted = TypeVar("Wanted")


class Client:
    """A link to a server, driven by the test."""

    def __init__(self, servers: Servers, *, role: str = "coordinator", deployment: str = "d"):
        hello = Hello(role=role, name=f"a {role}", deployment=deployment, plan_version=VERSION)
        channel = servers.transport.connect(servers.addresses["server"], hello)
        self.link = Link(channel, "server")
        self.frames: list[Frame] = []

    def tell(self, message: Message) -> None:
        self.link.send(message_frame(message, VERSION))

    def wait(self, is_wanted: Callable[[Frame], bool]) -> Frame:
        """The next frame that is wanted; what comes before it is dropped."""
        stop_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < stop_s:
            while self.frames:
                if is_wanted(frame := self.frames.pop(0)):
                    return frame
            self.frames.extend(self.link.receive())
            self.link.flush()
            time.sleep(0.001)
        raise AssertionError("the server did not answer")

    def hear(self, kind: type[Wanted]) -> Wanted:
        """The next message of ``kind``."""
        heard = []

        def is_wanted(frame: Frame) -> bool:
            if frame.kind is FrameKind.CONTROL:
                heard.append(decode_message(frame))
            return bool(heard) and isinstance(heard[-1], kind)

        self.wait(is_wanted)
        return heard[-1]

    def result(self) -> list[int]:
        """The ids of the next result."""
        return self.wait(lambda frame: frame.kind is FrameKind.RESULT).tensors[0].tolist()

    def assign(self, path: Path, *, num_parts: int = 1, part: str = "part0") -> None:
        names = ["server", *(f"other{i}" for i in range(1, num_parts))]
        plan = balance_layers(open_model(path), names, plan_version=VERSION)
        self.tell(
            Assign(
                deployment="d",
                plan=encode_plan(plan),
                part=part,
                model_path=str(path),
                threads=1,
            )
        )

    def is_alive(self) -> bool:
        self.tell(Ping(number=77, sent_ns=1))
        return self.hear(Pong).number == 77

    def expect_end(self) -> None:
        """The server closes the link before the deadline."""
        with pytest.raises(LinkClosed):
            self.wait(lambda frame: False)

    def close(self) -> None:
        self.link.close()


@contextmanager
def serving(
    on_pass: Callable = ignore_pass, transport: Transport | None = None
) -> Iterator[Servers]:
    servers = Servers(["server"], transport or MemoryTransport(), counting_runner(on_pass))
    try:
        yield servers
    finally:
        servers.stop()
        servers.join()


def step(first: int, *, sequence: int = 0, position: int = 0, version: int = VERSION) -> Frame:
    return Frame(
        kind=FrameKind.FORWARD,
        plan_version=version,
        step=1,
        rows=(Row(sequence, position, 1, int(RowFlag.PICK)),),
        tensors=(np.array([first], np.int64),),
    )


def ready(servers: Servers, path: Path) -> Client:
    client = Client(servers)
    client.assign(path)
    client.hear(Loaded)
    return client


def retry_until_free(servers: Servers, path: Path) -> Client:
    """A new coordinator, as soon as the server noticed that the one before left."""
    stop_s = time.monotonic() + DEADLINE_S
    while True:
        client = Client(servers)
        client.assign(path)
        try:
            client.hear(Loaded)
            return client
        except LinkClosed:
            assert time.monotonic() < stop_s, "the server stayed taken"
