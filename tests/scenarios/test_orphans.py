"""Processes that end in the middle of a generation: nobody outlives the coordinator, and a
server's end is told with its name and its reason.

The runs start together, because each needs seconds of one processor to import torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partwise.errors import LaunchError
from partwise.launch.local import LocalServers

pytestmark = pytest.mark.quiet

RUNS = ("SIGINT", "SIGTERM", "SIGKILL", "first killed", "last killed", "server fails")
OPTIONS = ("--parts", "2", "--threads", "1", "--max-tokens", "90000")
# Python runs these in every process that starts. Servers of the one run fail after some tokens.
FAILING_SERVER = """
import sys
if "partwise.launch.forkserver" in sys.orig_argv:
    from partwise.part.server import PartServer
    do_all = PartServer._do_all
    def fail(self):
        if self.name == "local-1" and self._accounts._decode.tokens > 50:
            raise MemoryError("no room for one more token")
        do_all(self)
    PartServer._do_all = fail
"""
# Servers of these are gone before the folder of their logs is.
SLOW_REMOVAL = """
import shutil, sys, time
if "partwise.launch.forkserver" in sys.orig_argv:
    remove = shutil.rmtree
    def remove_late(*args, **options):
        time.sleep(0.5)
        remove(*args, **options)
    shutil.rmtree = remove_late
"""
SITES = {"server fails": FAILING_SERVER, "SIGTERM": SLOW_REMOVAL, "SIGKILL": SLOW_REMOVAL}


class Generating:
    """`partwise generate` in a process of its own, in the middle of a long answer."""

    def __init__(self, model: Path, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        folder.mkdir()
        words = ["generate", str(model), "Once upon a time", "--raw"]
        # Where these tests run in the background SIGINT is ignored, and a child would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "partwise.cli.main", *words, *OPTIONS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(folder), **environment},
        )

    def wait_for_text(self) -> None:
        assert self.process.stdout.read(40), self.process.stderr.read()

    def server_pids(self) -> list[int]:
        """Those of its servers, in the order of their names."""
        (fork_server,) = children(self.process.pid)
        return children(fork_server)

    def end(self) -> tuple[int, str]:
        """Its exit code and the last line on stderr."""
        _, err = self.process.communicate(timeout=10)
        return self.process.returncode, err.decode().splitlines()[-1] if err else ""


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return sorted(found)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False


def wait_until_gone(pids: list[int], limit_s: float) -> list[int]:
    stop_s = time.monotonic() + limit_s
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < stop_s:
        time.sleep(0.02)
    return left


@pytest.fixture(scope="module")
def endless_model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never stops by itself, with room for a long answer."""
    model = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(tiny_llama, model, ignore=shutil.ignore_patterns(".partwise"))
    for name in ("config.json", "generation_config.json"):
        config = json.loads((model / name).read_text())
        config.pop("eos_token_id", None)
        if name == "config.json":
            config["max_position_embeddings"] = 100_000
        (model / name).write_text(json.dumps(config))
    return model


@pytest.fixture(scope="module")
def runs(
    endless_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Generating]]:
    """All runs, each by its name once it generates."""
    folder = tmp_path_factory.mktemp("runs")
    environments: dict[str, dict[str, str]] = {name: {} for name in RUNS}
    for name, code in SITES.items():
        site = tmp_path_factory.mktemp("site")
        (site / "sitecustomize.py").write_text(code)
        paths = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
        environments[name]["PYTHONPATH"] = paths
    running = {name: Generating(endless_model, folder / name, environments[name]) for name in RUNS}

    def get(name: str) -> Generating:
        running[name].wait_for_text()
        return running[name]

    yield get
    for run in running.values():
        run.process.kill()
        run.process.communicate()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", -15), ("SIGKILL", -9)])
def test_no_server_outlives_a_generation_that_is_ended(name: str, code: int, runs) -> None:
    run = runs(name)
    fork_server = children(run.process.pid)
    pids = fork_server + run.server_pids()
    assert len(pids) == 3
    run.process.send_signal(getattr(signal, name))
    assert wait_until_gone(pids, 3.0) == []
    returned, line = run.end()
    assert returned == code
    if name == "SIGINT":
        assert line == "partwise: interrupted"
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize(("name", "index"), [("first killed", 0), ("last killed", 1)])
def test_a_killed_server_is_named_with_its_part_and_the_signal(name: str, index: int, runs) -> None:
    run = runs(name)
    pids = run.server_pids()
    os.kill(pids[index], signal.SIGKILL)
    killed_s = time.monotonic()
    code, line = run.end()
    assert time.monotonic() - killed_s < 3
    assert code == 1
    assert line == (
        f"partwise: part{index} on server 'local-{index}' went away:"
        f" process {pids[index]} was ended by SIGKILL"
    )
    assert wait_until_gone(pids, 3.0) == []


def test_a_server_that_fails_is_told_with_its_own_last_line(runs) -> None:
    run = runs("server fails")
    code, line = run.end()
    assert code == 1
    assert line == (
        "partwise: part1 on server 'local-1' went away: MemoryError: no room for one more token"
    )


def test_a_server_that_fails_before_it_listens_says_why(started) -> None:
    servers = LocalServers("none", b"0" * 64)
    try:
        with pytest.raises(
            LaunchError, match=re.escape("server 'a' did not start: OSError: [Errno 22]")
        ):
            servers.start(["a"], [(99_999,)])
    finally:
        servers.close()
    assert started.processes() == []
