from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest

from partwise.distributor import balance_layers, encode_plan
from partwise.distributor.plan import Member, NeuronShare, Part, Stage
from partwise.errors import LinkClosed
from partwise.model import open_model
from partwise.part import server as server_module
from partwise.part.refused import MAX_REFUSED, REFUSED_S
from partwise.remote import link as link_module
from partwise.remote.authenticate import Hello, new_token
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.link import Link
from partwise.remote.memory import CAPACITY_BYTES, MemoryTransport
from partwise.remote.messages import (
    Assign,
    Connect,
    Connected,
    Failed,
    Loaded,
    Message,
    Ping,
    Pong,
    Refused,
    Release,
    decode_message,
    message_frame,
)
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address, Transport
from support.parts import Servers, counting_runner, ignore_pass

VERSION = 3
DEADLINE_S = 5.0
Wanted = TypeVar("Wanted")


class Client:
    """A link to a server, driven by the test."""

    def __init__(self, servers: Servers, *, role: str = "coordinator", deployment: str = "d"):
        hello = Hello(role=role, name=f"a {role}", deployment=deployment)
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


def test_a_server_with_one_part_answers_steps(tiny_llama: Path) -> None:
    with serving() as servers:
        client = ready(servers, tiny_llama)
        client.link.send(step(41))
        assert client.result() == [42]
        client.tell(Release(sequences=(0,)))
        client.link.send(step(50))
        assert client.result() == [51]
        client.close()


def test_a_repeated_frame_gives_one_result(tiny_llama: Path) -> None:
    passes = []
    with serving(lambda part, number, between: passes.append(number)) as servers:
        client = ready(servers, tiny_llama)
        for frame in (step(5), step(5), step(6, position=1)):
            client.link.send(frame)
        assert client.result() == [6]
        assert client.result() == [7]
        assert client.is_alive()
        assert passes == [1, 2]
        client.close()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (step(1, version=VERSION - 1), f"plan_version {VERSION}, the frame is of {VERSION - 1}"),
        (step(1, position=4), "expects position 0 of sequence 0"),
        (Frame(kind=FrameKind.FORWARD, plan_version=VERSION), "frames with rows"),
        (Frame(kind=FrameKind.GRADIENT, plan_version=VERSION, rows=(Row(0, 0, 1),)), "GRADIENT"),
    ],
    ids=["stale", "gap", "no rows", "kind"],
)
def test_a_frame_that_is_not_taken_is_refused_with_the_reason(
    tiny_llama: Path, frame: Frame, reason: str
) -> None:
    with serving() as servers:
        client = ready(servers, tiny_llama)
        client.link.send(frame)
        assert reason in client.hear(Refused).text
        client.link.send(step(8))
        assert client.result() == [9]
        client.close()


def test_a_frame_before_an_assignment_is_refused() -> None:
    with serving() as servers:
        client = Client(servers)
        client.link.send(step(1))
        assert "idle, not serving" in client.hear(Refused).text
        client.close()


def test_a_second_coordinator_is_refused_and_the_first_goes_on(tiny_llama: Path) -> None:
    with serving() as servers:
        first = ready(servers, tiny_llama)
        second = Client(servers)
        refusal = second.hear(Failed)
        assert refusal.error == "LaunchError"
        assert "already serves another coordinator" in refusal.text
        second.expect_end()
        assert first.is_alive()
        for _ in range(20):
            Client(servers).close()  # gone before it can be refused
        assert first.is_alive()
        first.close()


def test_refused_clients_that_stay_take_no_more_than_sixteen_places() -> None:
    with serving() as servers:
        first = Client(servers)
        assert first.is_alive()
        refused = [Client(servers) for _ in range(MAX_REFUSED)]
        for client in refused:
            client.hear(Failed)
        start_s = time.monotonic()
        Client(servers).expect_end()
        assert time.monotonic() - start_s < REFUSED_S / 2  # it had no time to stay
        for client in refused:
            client.tell(Ping(number=1, sent_ns=0))  # raises where the server hung up
        assert len(refused) == 16
        refused.pop().close()
        assert first.is_alive()  # the server has seen that end: there is a place again
        Client(servers).hear(Failed)
        for client in [first, *refused]:
            client.close()


def test_a_refused_client_has_two_seconds_to_read_why() -> None:
    with serving() as servers:
        first = Client(servers)
        assert first.is_alive()
        start_s = time.monotonic()
        late = Client(servers)
        assert first.is_alive()
        time.sleep(1.6)  # past the first look at whose time is over
        late.tell(Ping(number=1, sent_ns=0))  # raises where the server hung up
        assert "already serves another coordinator" in late.hear(Failed).text
        late.expect_end()
        assert 2.0 <= time.monotonic() - start_s < 4.0
        assert first.is_alive()
        first.close()


def test_a_plan_that_cannot_be_held_is_told_and_the_server_stays(
    tiny_llama: Path, tiny_gpt2: Path
) -> None:
    with serving() as servers:
        client = Client(servers)
        client.tell(
            Assign(
                deployment="d", plan=b"{}", part="part0", model_path="m", threads=1,

            )
        )  # fmt: skip
        assert client.hear(Failed).error == "PlanError"
        client.assign(tiny_llama, part="part7")
        assert "part7" in client.hear(Failed).text
        client.close()
        client = retry_until_free(servers, tiny_llama)
        assert client.is_alive()
        client.close()


def test_a_missing_model_is_told_with_its_path(tiny_llama: Path, tmp_path: Path) -> None:
    plan = encode_plan(balance_layers(open_model(tiny_llama), ["server"]))
    with serving() as servers:
        client = Client(servers)
        missing = tmp_path / "missing"
        client.tell(
            Assign(
                deployment="d", plan=plan, part="part0", model_path=str(missing), threads=1,

            )
        )  # fmt: skip
        failed = client.hear(Failed)
        assert failed.error == "ModelError"
        assert str(missing) in failed.text
        client.close()


GIVEN = b'"plan_version": 3'


def assign_of(path: Path | str, plan: bytes, threads: int = 1) -> Assign:
    return Assign(
        deployment="d", plan=plan, part="part0", model_path=str(path), threads=threads
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda plan: assign_of("x" * 300, plan), "ModelError"),
        (lambda plan: assign_of("m", plan.replace(b"part0", b"\xff\xff")), "PlanError"),
        (lambda plan: assign_of("m", plan.replace(GIVEN, b'"plan_version": -1')), "PlanError"),
        (lambda plan: assign_of("m", plan.replace(GIVEN, b'"plan_version": 4294967296')),
         "PlanError"),
        (lambda plan: assign_of("m", b'{"notes":' + b"[" * 100_000), "PlanError"),
        (lambda plan: assign_of("m", plan, threads=1025), "LaunchError"),
        (lambda plan: assign_of("m", plan, threads=-1), "LaunchError"),
    ],
    ids=["path", "utf-8", "negative", "33 bits", "deep", "threads", "negative threads"],
)  # fmt: skip
def test_a_bad_assignment_is_told_and_the_server_stays(
    tiny_llama: Path, change: Callable[[bytes], Assign], error: str
) -> None:
    plan = encode_plan(balance_layers(open_model(tiny_llama), ["server"], plan_version=VERSION))
    with serving() as servers:
        client = Client(servers)
        client.tell(change(plan))
        assert client.hear(Failed).error == error
        client.assign(tiny_llama)
        client.hear(Loaded)
        client.close()


def test_whatever_opening_an_assignment_raises_the_server_stays(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def raise_it(assign: Assign) -> None:
        raise ZeroDivisionError("of nobody")

    with serving() as servers, monkeypatch.context() as patch:
        client = Client(servers)
        patch.setattr(server_module, "open_assignment", raise_it)
        client.assign(tiny_llama)
        assert "ZeroDivisionError: of nobody" in client.hear(Failed).text
        patch.undo()
        client.assign(tiny_llama)
        client.hear(Loaded)
        client.close()
    assert "of nobody" in capfd.readouterr().err


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("a" * 64, 7070)])
def test_a_next_part_at_no_address_is_told_and_the_server_stays(
    tiny_llama: Path, host: str, port: int
) -> None:
    transport = TcpTransport(new_token())
    with serving(transport=transport) as servers:
        client = Client(servers)
        client.assign(tiny_llama, num_parts=2)
        client.hear(Loaded)
        client.tell(Connect(part="part1", host=host, port=port))
        failed = client.hear(Failed)
        assert failed.error == "LinkClosed"
        assert "part0 cannot reach part1" in failed.text
        assert client.is_alive()
        client.close()


@pytest.mark.parametrize("deployment", ["d", "another"])
def test_only_parts_of_the_deployment_may_join_and_they_may_not_command(
    tiny_llama: Path, deployment: str
) -> None:
    with serving() as servers:
        client = ready(servers, tiny_llama)
        part = Client(servers, role="part", deployment=deployment)
        if deployment == "d":
            part.tell(Release(sequences=(0,)))
        part.expect_end()
        assert client.is_alive()
        client.close()


def test_a_part_of_the_deployment_feeds_the_next_one(tiny_llama: Path) -> None:
    with serving() as servers:
        client = Client(servers)
        client.assign(tiny_llama, num_parts=1)
        client.hear(Loaded)
        part = Client(servers, role="part")
        part.link.send(step(30))
        assert client.result() == [31]
        part.close()
        assert client.is_alive(), "a part that leaves does not end the next one"
        client.close()


def test_garbage_from_the_coordinator_frees_the_server(tiny_llama: Path) -> None:
    with serving() as servers:
        client = ready(servers, tiny_llama)
        client.link.channel.send([memoryview(b"\xff" * 100)])
        client.expect_end()
        client = retry_until_free(servers, tiny_llama)
        client.link.send(step(1))
        assert client.result() == [2]
        client.close()


@pytest.mark.parametrize(
    "message",
    [
        b"\x81\xa4type\xa4exec",
        b"\x82\xa4type\xa7connect\xa4part\xa1\xff",
        b"\x82\xa4type\xa7release\xa1x" + b"\x91" * 100_000,
    ],
    ids=["unknown", "utf-8", "deep"],
)
def test_what_is_no_control_message_ends_the_link_but_not_the_server(
    tiny_llama: Path, message: bytes
) -> None:
    with serving() as servers:
        client = ready(servers, tiny_llama)
        client.link.send(Frame(kind=FrameKind.CONTROL, message=message, plan_version=VERSION))
        client.expect_end()
        client = retry_until_free(servers, tiny_llama)
        assert client.is_alive()
        client.close()


def test_pings_are_answered_while_a_pass_is_computed(tiny_llama: Path) -> None:
    is_over = threading.Event()

    def compute(part: str, number: int, between_layers: Callable[[], None]) -> None:
        stop_s = time.monotonic() + DEADLINE_S
        while not is_over.is_set() and time.monotonic() < stop_s:
            between_layers()

    with serving(compute) as servers:
        client = ready(servers, tiny_llama)
        client.link.send(step(1))
        client.tell(Ping(number=1, sent_ns=0))
        pong = client.hear(Pong)
        assert (pong.received_step, pong.finished_step) == (1, 0)
        is_over.set()
        assert client.result() == [2]
        client.tell(Ping(number=2, sent_ns=0))
        assert client.hear(Pong).finished_step == 1
        client.close()


def test_a_coordinator_that_leaves_frees_the_server_between_two_layers(tiny_llama: Path) -> None:
    passes = []

    def compute(part: str, number: int, between_layers: Callable[[], None]) -> None:
        passes.append(number)
        stop_s = time.monotonic() + DEADLINE_S
        while len(passes) == 1 and time.monotonic() < stop_s:
            between_layers()  # raises as soon as nobody waits for the pass

    with serving(compute) as servers:
        client = ready(servers, tiny_llama)
        client.link.send(step(1))
        assert client.is_alive()
        client.close()
        client = retry_until_free(servers, tiny_llama)
        client.link.send(step(70))
        assert client.result() == [71]
        client.close()


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
    monkeypatch.setattr(server_module, "STALL_S", 0.3)
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


def test_a_plan_that_splits_a_layer_is_refused_by_the_server_too(tiny_llama: Path) -> None:
    model = open_model(tiny_llama)
    count = next(kind.count for kind in model.layers[1].neuron_kinds)
    name = model.layers[1].neuron_kinds[0].name
    whole = balance_layers(model, ["server"], plan_version=VERSION)
    shares = tuple(
        Member(part=part, neurons=(NeuronShare(kind=name, ranges=((start, stop),)),))
        for part, start, stop in (("part0", 0, 1), ("part1", 1, count))
    )
    split = msgspec.structs.replace(
        whole,
        stages=(Stage(start=0, stop=len(model.layers), members=shares),),
        parts=(Part(name="part0", server="server"), Part(name="part1", server="other")),
    )
    with serving() as servers:
        client = Client(servers)
        client.tell(
            Assign(
                deployment="d", plan=encode_plan(split), part="part0", model_path=str(tiny_llama),
                threads=1,
            )
        )  # fmt: skip
        assert client.hear(Failed).error == "PlanError"
        client.close()
