"""Servers as child processes of this machine, for as long as their owner lives."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from partwise.distributor.devices import CPU
from partwise.errors import LaunchError
from partwise.launch.forkserver import Preload, Spawn, Spawned
from partwise.part.waiting import WAIT_POLICY
from partwise.remote.transport import Address

START_S = 60.0
STOP_S = 5.0
END_S = 1.0
"""How long a server whose link ended may take to end itself."""


class LocalServers:
    """Child servers through a fork server, which starts importing at once; `start` waits."""

    def __init__(
        self,
        architecture: str,
        token: bytes,
        *,
        num_threads: int = 1,
        runners: Sequence[str] = ("torch",),
        device: str = CPU,
    ) -> None:
        """Start the fork server; all its servers will compute with ``num_threads`` together, by
        the ``runners`` that are imported once for all, on one ``device``.

        Raises:
            LaunchError: it cannot be started.
        """
        self._token = token
        self._device = device
        self._environment = _choose_environment(num_threads)
        self._folder = Path(tempfile.mkdtemp(prefix="partwise-"))
        self._pids: dict[str, int] = {}
        try:
            self._process = self._start_process()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        try:
            preload = Preload(
                runners=tuple(runners), architecture=architecture, folder=str(self._folder)
            )
            self._send(preload)
        except BaseException:
            self.close()
            raise

    def _start_process(self) -> subprocess.Popen[bytes]:
        try:
            with (self._folder / "forkserver.log").open("wb") as log:
                return subprocess.Popen(
                    # -P: no file of the folder in which the user works is imported.
                    [sys.executable, "-P", "-m", "partwise.launch.forkserver"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    bufsize=0,  # `select` sees what a buffer would hide
                    start_new_session=True,  # Ctrl-C is for the coordinator: it ends them itself
                )
        except OSError as exc:
            raise LaunchError(
                f"cannot start servers on this machine: {exc.strerror or exc}; is there memory,"
                " and room for processes?"
            ) from exc

    def start(self, servers: Sequence[str], cpus: Sequence[Sequence[int]]) -> dict[str, Address]:
        """Fork the servers and wait until each listens; their addresses by name.

        Raises:
            LaunchError: one did not start in START_S, or ended; with what it said last.
        """
        for server, pinned in zip(servers, cpus, strict=True):
            log = str(self._log(server))
            token = self._token.decode()
            spawn = Spawn(
                server=server, token=token, cpus=tuple(pinned), log=log, device=self._device
            )
            self._send(spawn)
        addresses: dict[str, Address] = {}
        stop_s = time.monotonic() + START_S
        while len(addresses) < len(servers):
            answer = self._read_answer(stop_s)
            self._pids[answer.server] = answer.pid
            if answer.error:
                why = self.explain(answer.server) or answer.error
                raise LaunchError(f"server {answer.server!r} did not start: {why}")
            addresses[answer.server] = Address("127.0.0.1", answer.port)
        return addresses

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by server name."""
        return dict(self._pids)

    def explain(self, server: str) -> str:
        """The last line that a server wrote before it ended; empty if it wrote none, or runs."""
        stop_s = time.monotonic() + END_S
        pid = self._pids.get(server)
        while pid is not None and _exists(pid):
            if time.monotonic() > stop_s:
                return ""
            time.sleep(0.01)  # its link ends before it does
        try:
            written = self._log(server).read_text(errors="replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(written.splitlines()) if line.strip()), "")

    def close(self) -> None:
        """End all servers and wait for them, STOP_S at most."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        stop_s = time.monotonic() + STOP_S
        while self._alive() and time.monotonic() < stop_s:
            time.sleep(0.005)
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _alive(self) -> list[int]:
        return [pid for pid in self._pids.values() if _is_alive(pid)]

    def _log(self, server: str) -> Path:
        return self._folder / f"{server}.log"

    def _send(self, message: Preload | Spawn) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except OSError as exc:
            raise self._died() from exc

    def _read_answer(self, stop_s: float) -> Spawned:
        assert self._process.stdout is not None
        ready, _, _ = select.select(
            [self._process.stdout], [], [], max(0.0, stop_s - time.monotonic())
        )
        if not ready:
            raise LaunchError(f"the servers did not start in {START_S:g} s: is the machine busy?")
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return msgspec.json.decode(line, type=Spawned)

    def _died(self) -> LaunchError:
        written = (self._folder / "forkserver.log").read_text(errors="replace").strip()
        why = written.splitlines()[-1] if written else f"exit code {self._process.poll()}"
        return LaunchError(f"the servers did not start: {why}")


def _choose_environment(num_threads: int) -> dict[str, str]:
    """Threads that wait for each other look again and again, for milliseconds. Where they are
    more than the processors that takes these away from whoever computes, up to a hundred times
    slower (decision 0010): there they sleep. What the user has set stays."""
    environment = dict(os.environ)
    if num_threads > len(os.sched_getaffinity(0)):
        environment.setdefault(WAIT_POLICY, "PASSIVE")
    return environment


def _exists(pid: int) -> bool:
    """Whether the process runs, or ended and was not reaped yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    """Whether the process runs: nobody may be there to reap the orphans of the fork server."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def share_cpus(num_servers: int, threads: int) -> list[tuple[int, ...]]:
    """For each server the processors to pin it to: ``threads`` of its own, in turn."""
    cpus = sorted(os.sched_getaffinity(0))
    if num_servers * threads > len(cpus):
        raise LaunchError(
            f"cannot pin {num_servers} servers of {threads} threads to {len(cpus)} processors:"
            " use fewer threads or parts, or do not pin"
        )
    return [tuple(cpus[i * threads : (i + 1) * threads]) for i in range(num_servers)]
