"""A server that is told of another plan: which steps are of which, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from partwise.distributor import balance_layers, encode_plan
from partwise.model import open_model
from partwise.remote.frame import Frame, FrameKind, Row, RowFlag
from partwise.remote.messages import (
    DropPlan,
    Loaded,
    PlanChange,
    PlanReady,
    PlanRefused,
    PlanSwitched,
    Refused,
    SwitchPlan,
)
from support.client import VERSION, Client, ready, serving, step

NEXT = VERSION + 1


@pytest.fixture
def client(tiny_llama: Path) -> Iterator[Client]:
    """A coordinator of a server whose part is ready."""
    with serving() as servers:
        client = ready(servers, tiny_llama)
        yield client
        client.close()


def change(path: Path, version: int = NEXT, server: str = "server") -> PlanChange:
    plan = balance_layers(open_model(path), [server], plan_version=version)
    return PlanChange(plan=encode_plan(plan), plan_version=version)


def of(number: int, first: int, *, version: int, position: int = 0) -> Frame:
    """A frame of step ``number``."""
    row = Row(0, position, 1, int(RowFlag.PICK))
    told = step(first, version=version)
    return Frame(
        kind=FrameKind.FORWARD, plan_version=version, step=number, rows=(row,), tensors=told.tensors
    )


def prepare(client: Client, path: Path) -> None:
    client.tell(change(path))
    assert client.hear(PlanReady).plan_version == NEXT


def test_each_step_is_computed_under_one_plan(tiny_llama: Path, client: Client) -> None:
    client.link.send(of(1, 40, version=VERSION))
    assert client.result() == [41]
    client.tell(change(tiny_llama))
    client.hear(Loaded)
    client.hear(PlanReady)
    client.link.send(of(2, 41, version=NEXT))
    assert "computes steps 0:0 under plan_version 4, the frame is of step 2" in (
        client.hear(Refused).text
    )
    client.link.send(of(2, 41, version=VERSION, position=1))
    assert client.result() == [42], "what is prepared changes nothing"
    client.tell(SwitchPlan(plan_version=NEXT, at_step=4))
    client.hear(PlanSwitched)
    client.link.send(of(4, 42, version=VERSION, position=2))
    assert "computes steps 0:4 under plan_version 3" in client.hear(Refused).text
    client.link.send(of(3, 42, version=NEXT))
    assert "computes steps 4:" in client.hear(Refused).text
    client.link.send(of(4, 70, version=NEXT))
    client.link.send(of(3, 42, version=VERSION, position=2))
    assert sorted([*client.result(), *client.result()]) == [43, 71]
    client.tell(DropPlan(plan_version=VERSION))
    client.link.send(of(3, 43, version=VERSION, position=3))
    assert "serves plan_version 4, the frame is of 3" in client.hear(Refused).text


def test_a_step_that_is_begun_is_not_of_the_next_plan(tiny_llama: Path, client: Client) -> None:
    client.link.send(of(7, 40, version=VERSION))
    assert client.result() == [41]
    prepare(client, tiny_llama)
    client.tell(SwitchPlan(plan_version=NEXT, at_step=7))
    says = "plan_version 4 cannot take over at step 7: step 7 is begun under 3; name a later one"
    assert says in client.hear(PlanRefused).text
    client.tell(SwitchPlan(plan_version=NEXT, at_step=8))
    assert client.hear(PlanSwitched).plan_version == NEXT


def test_a_plan_that_gives_the_server_nothing_is_refused(tiny_llama: Path, client: Client) -> None:
    client.tell(change(tiny_llama, server="another"))
    assert "the plan has no part for server 'server'" in client.hear(PlanRefused).text
    client.link.send(of(1, 40, version=VERSION))
    assert client.result() == [41]


def test_a_plan_for_another_model_is_refused(
    tiny_llama: Path, tiny_gpt2: Path, client: Client
) -> None:
    client.tell(change(tiny_gpt2))
    assert "the plan is for another model" in client.hear(PlanRefused).text
    prepare(client, tiny_llama)


def test_what_was_prepared_in_vain_is_forgotten_and_the_next_is_taken(
    tiny_llama: Path, client: Client
) -> None:
    prepare(client, tiny_llama)
    client.tell(DropPlan(plan_version=NEXT))
    client.tell(SwitchPlan(plan_version=NEXT, at_step=3))
    assert "nothing is prepared" in client.hear(PlanRefused).text
    client.tell(change(tiny_llama, NEXT + 1))
    assert client.hear(PlanReady).plan_version == NEXT + 1
