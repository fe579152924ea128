"""Servers of this machine that do not get so far as to listen."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from partwise.errors import LaunchError
from partwise.launch import local
from partwise.launch.local import LocalServers
from partwise.remote.authenticate import new_token

pytestmark = pytest.mark.usefixtures("started")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers keep their logs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_server_that_dies_before_it_listens_is_reported_with_its_last_words(
    folders: Path,
) -> None:
    servers = LocalServers("LlamaForCausalLM", new_token())
    try:
        # Not an error that it expects, as of a full table of descriptors.
        with pytest.raises(LaunchError, match=r"server 'b' did not start: .*negative CPU"):
            servers.start(["a", "b"], [(), (-1,)])
    finally:
        servers.close()
    assert not list(folders.iterdir())


def test_a_fork_server_that_cannot_be_started_leaves_nothing(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(LaunchError, match="cannot start servers on this machine: Resource temp"):
        LocalServers("LlamaForCausalLM", new_token())
    assert not list(folders.iterdir())


def test_a_fork_server_that_takes_no_word_is_ended(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def start(*args, **kwargs) -> subprocess.Popen[bytes]:
        started.append(original(*args, **kwargs))
        return started[-1]

    def fail(self: LocalServers, message: object) -> None:
        raise LaunchError("the servers did not start: broken")

    monkeypatch.setattr(local.subprocess, "Popen", start)
    monkeypatch.setattr(LocalServers, "_send", fail)
    with pytest.raises(LaunchError, match="broken"):
        LocalServers("LlamaForCausalLM", new_token())
    (process,) = started
    assert process.returncode is not None
    assert process.stdin.closed
    assert process.stdout.closed
    assert not list(folders.iterdir())


@pytest.mark.parametrize(
    ("num_threads", "chosen", "policy"),
    [(2, None, None), (3, None, "PASSIVE"), (3, "ACTIVE", "ACTIVE"), (1, "PASSIVE", "PASSIVE")],
)
def test_threads_sleep_while_they_wait_where_they_are_more_than_the_processors(
    num_threads: int,
    chosen: str | None,
    policy: str | None,
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environments = []

    def refuse(*_: object, env: dict[str, str], **__: object) -> None:
        environments.append(env)
        raise OSError(11, "enough")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if chosen is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    with pytest.raises(LaunchError, match="enough"):
        LocalServers("LlamaForCausalLM", new_token(), num_threads=num_threads)
    assert [env.get("OMP_WAIT_POLICY") for env in environments] == [policy]


def test_no_file_of_the_users_folder_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    servers = LocalServers("LlamaForCausalLM", new_token())
    try:
        assert set(servers.start(["a"], [()])) == {"a"}
    finally:
        servers.close()
