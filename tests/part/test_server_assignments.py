"""What a server does with assignments that are none: it says why, and stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from partwise.distributor import balance_layers, encode_plan
from partwise.model import open_model
from partwise.part import server as server_module
from partwise.remote.authenticate import new_token
from partwise.remote.messages import (
    Assign,
    Connect,
    Failed,
    Loaded,
)
from partwise.remote.tcp import TcpTransport
from support.client import VERSION, Client, retry_until_free, serving


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


@pytest.mark.parametrize("part", ["part0", "part2", "part7"])
def test_a_part_connects_to_nobody_for_whom_it_has_nothing(tiny_llama: Path, part: str) -> None:
    with serving() as servers:
        client = Client(servers)
        client.assign(tiny_llama, num_parts=3)
        client.hear(Loaded)
        client.tell(Connect(part=part, host="127.0.0.1", port=servers.addresses["server"].port))
        client.expect_end()


def test_a_plan_that_no_runner_computes_is_refused_by_the_server_too(tiny_llama: Path) -> None:
    plan = balance_layers(open_model(tiny_llama), ["server"], plan_version=VERSION)
    part = msgspec.structs.replace(plan.parts[0], mlp_sparsity=0.5)
    reduced = msgspec.structs.replace(plan, parts=(part,))
    with serving() as servers:
        client = Client(servers)
        client.tell(assign_of(tiny_llama, encode_plan(reduced)))
        failed = client.hear(Failed)
        assert failed.error == "PlanError"
        assert "without 50 % of its MLP units" in failed.text
        client.close()
