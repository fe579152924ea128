from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from partwise.part.refused import MAX_REFUSED, REFUSED_S
from partwise.remote.frame import Frame, FrameKind, Row
from partwise.remote.messages import (
    Failed,
    Loaded,
    Ping,
    Pong,
    Refused,
    Release,
)
from support.client import DEADLINE_S, VERSION, Client, ready, retry_until_free, serving, step

pytestmark = pytest.mark.quiet


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


def test_a_partial_sum_from_who_is_no_member_ends_its_link(tiny_llama: Path) -> None:
    with serving() as servers:
        client = ready(servers, tiny_llama)
        part = Client(servers, role="part")
        part.link.send(Frame(kind=FrameKind.PARTIAL_SUM, plan_version=VERSION, step=1, layer=1))
        part.expect_end()
        client.link.send(step(30))
        assert client.result() == [31]
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
