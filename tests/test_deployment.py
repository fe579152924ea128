"""What deploying asks of the servers, as they see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import partwise
from partwise import deployment
from partwise.errors import UsageError
from partwise.part.runner import Runner, RunnerOptions
from partwise.remote.authenticate import new_token
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address
from support.parts import Servers, counting_runner

NUM_PROCESSORS = 8


class Recording:
    """Servers in threads; ``threads`` are what each of their parts was told to use."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.devices: list[str] = []
        self.num_passes = 0
        self._servers: list[Servers] = []

    def start(self, names: Sequence[str], token: bytes) -> dict[str, Address]:
        self._servers.append(Servers(names, TcpTransport(token), self._make_runner))
        return self._servers[-1].addresses

    def _make_runner(self, options: RunnerOptions) -> Runner:
        self.threads.append(options.threads)
        return counting_runner(self._on_pass)(options)

    def _on_pass(self, part: str, number: int, between_layers: Callable[[], None]) -> None:
        self.num_passes += 1
        time.sleep(0.005)

    def stop(self) -> None:
        for servers in self._servers:
            servers.stop()
            servers.join()


@pytest.fixture
def recording() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    recording.stop()


@pytest.fixture
def local(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """Servers that `deploy` takes for processes of this machine."""

    class Local:
        def __init__(
            self,
            architecture: str,
            token: bytes,
            *,
            num_threads: int,
            runners: Sequence[str],
            device: str,
        ) -> None:
            recording.devices.append(device)
            self._token = token

        def start(self, names: Sequence[str], cpus: Sequence[Sequence[int]]) -> dict[str, Address]:
            return recording.start(names, self._token)

        def explain(self, server: str) -> str:
            return ""

        def close(self) -> None:
            """The fixture stops them."""

    monkeypatch.setattr(deployment, "LocalServers", Local)
    monkeypatch.setattr(deployment, "_num_processors", lambda: NUM_PROCESSORS)
    return recording


THREADS = [
    ({}, NUM_PROCESSORS // 2, 0),
    ({"is_deterministic": True}, 1, 1),
    ({"is_deterministic": True, "threads": 3}, 3, 3),
    ({"threads": 3}, 3, 3),
]


@pytest.mark.parametrize(("asked", "used", "_"), THREADS)
def test_local_servers_share_the_processors_unless_bits_must_not_depend_on_them(
    asked: dict[str, Any], used: int, _: int, local: Recording, tiny_llama: Path
) -> None:
    with partwise.deploy(tiny_llama, parts=2, options=partwise.DeployOptions(**asked)):
        assert local.threads == [used, used]


@pytest.mark.parametrize(("asked", "_", "used"), THREADS)
def test_servers_that_listen_decide_unless_bits_must_not_depend_on_them(
    asked: dict[str, Any], _: int, used: int, recording: Recording, tiny_llama: Path, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_bytes(new_token())
    addresses = recording.start(["first", "second"], token_file.read_bytes())
    servers = [str(address) for address in addresses.values()]
    options = partwise.DeployOptions(token_file=token_file, **asked)
    with partwise.deploy(tiny_llama, servers=servers, options=options):
        assert recording.threads == [used, used]


def test_local_servers_get_no_more_threads_than_processors_and_that_is_said(
    local: Recording, tiny_llama: Path
) -> None:
    notices: list[str] = []
    threads = NUM_PROCESSORS // 2 + 1
    options = partwise.DeployOptions(threads=threads, on_notice=notices.append)
    with partwise.deploy(tiny_llama, parts=2, options=options):
        assert local.threads == [NUM_PROCESSORS // 2] * 2
    (notice,) = notices
    assert f"2 servers of this machine compute with {NUM_PROCESSORS // 2} instead of" in notice
    with partwise.deploy(tiny_llama, parts=1, options=options):
        assert local.threads[2:] == [threads]
    assert len(notices) == 1


def test_local_servers_compute_on_the_device_that_is_asked_for(
    local: Recording, tiny_llama: Path
) -> None:
    for device in ("cpu", "cuda:1"):
        with partwise.deploy(tiny_llama, options=partwise.DeployOptions(device=device)) as net:
            assert net.plan.parts[0].runner == ("onnx" if device == "cpu" else "torch")
    assert local.devices == ["cpu", "cuda:1"]


def test_an_answer_says_how_many_tokens_the_context_leaves(
    local: Recording, tiny_llama: Path
) -> None:
    with partwise.deploy(tiny_llama) as net:
        room = net.model.context_tokens - 500
        answers = [net.generate("x" * 500, max_tokens=n, chat=False) for n in (room, room + 1)]
        for answer in answers:
            answer.cancel()
    assert [answer.max_tokens for answer in answers] == [room, room]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("threads", -1, "threads is -1, it must be at least 0: give 0 or more"),
        ("max_in_flight", -2, "max_in_flight is -2, it must be at least 0"),
        ("chunk_tokens", 0, "chunk_tokens is 0, it must be at least 1"),
        ("step_timeout_s", 0.0, "step_timeout_s is 0, it must be above 0"),
        ("step_timeout_s", float("nan"), "step_timeout_s is nan"),
        ("step_timeout_s", float("inf"), "step_timeout_s is inf"),
        ("step_timeout_s", 86_401.0, "at most 86400, a day"),
        ("threads", 1025, "threads is 1025, it must be at most 1024"),
    ],
)
def test_numbers_that_mean_nothing_are_wrong_usage(name: str, value: float, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        partwise.DeployOptions(**{name: value})


def test_leaving_the_loop_over_an_answer_stops_the_parts(
    local: Recording, tiny_llama: Path
) -> None:
    with partwise.deploy(tiny_llama) as net:
        for _ in net.generate("a", max_tokens=400, chat=False):
            break
        net.counters()  # after the cancellation
        time.sleep(0.05)
        before = local.num_passes
        time.sleep(0.2)
        assert local.num_passes == before < 400
