"""A process that imports torch once and forks servers of this machine from there.

It is `python -m partwise.launch.forkserver`: JSON lines in on stdin, JSON lines out on
stdout. Nobody outlives the coordinator: when it ends, however it ends, the kernel closes
its end of stdin, and this process and every server, which inherit the other end, exit.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from partwise.distributor.devices import CPU
from partwise.errors import PartwiseError
from partwise.launch.listening import (
    MODULE,
    check_device_here,
    import_runners,
    serve,
    serve_modules,
)
from partwise.remote.tcp import TcpListener, TcpTransport
from partwise.remote.transport import Address

_PR_SET_PDEATHSIG = 1


class Spawn(msgspec.Struct, frozen=True, kw_only=True):
    """In: fork a server. ``cpus``: pin it to these (all, if empty); ``log``: its stderr;
    ``device``: what it computes on."""

    server: str
    token: str
    cpus: tuple[int, ...]
    log: str
    device: str = CPU


class Preload(msgspec.Struct, frozen=True, kw_only=True):
    """In, first: import what ``runners`` need for this architecture. ``folder`` holds the logs
    of servers and goes away with the coordinator."""

    runners: tuple[str, ...]
    architecture: str
    folder: str


class Spawned(msgspec.Struct, frozen=True, kw_only=True):
    """Out: a server listens on loopback; or ``error`` says why not."""

    server: str
    pid: int
    port: int = 0
    error: str = ""


def main() -> NoReturn:
    """Preload, fork a server for each request, reap those that end."""
    lines = sys.stdin.buffer
    preload = msgspec.json.decode(lines.readline(), type=Preload)
    _end_with_coordinator(preload.folder)
    gc.disable()  # what an import makes stays: looking for garbage in it costs half a second
    is_for_modules = MODULE in preload.runners
    if "torch" in preload.runners or is_for_modules:
        import torch

        torch.set_num_threads(1)  # no thread pool yet: threads do not survive a fork
    import_runners(preload.runners, preload.architecture)
    gc.freeze()  # the collector would copy every shared page in every server
    gc.enable()
    spawned: dict[int, Spawn] = {}
    signal.signal(signal.SIGCHLD, lambda *_: _reap(spawned))
    while line := lines.readline():
        spawn = msgspec.json.decode(line, type=Spawn)
        pid = os.fork()
        if pid == 0:
            _become_server(spawn, is_for_modules=is_for_modules)
        spawned[pid] = spawn
        _reap(spawned)  # it may have ended before it was known
    while True:  # the lifeline has seen it too: it removes the folder, and ends this process
        signal.pause()


def _reap(spawned: dict[int, Spawn]) -> None:
    """Note how each server ended, in its log and to who may still wait for it; then reap it."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        # A signal may come while this runs: whoever takes the entry out reaps the process.
        spawn = spawned.pop(ended.si_pid, None) if ended is not None else None
        if ended is None or spawn is None:
            return
        how = f"process {ended.si_pid} ended with exit code {ended.si_status}"
        # Where the coordinator ended first, the logs may be gone already and nobody reads this: an
        # error would end this process before it has removed their folder.
        if ended.si_code != os.CLD_EXITED:
            how = f"process {ended.si_pid} was ended by {signal.Signals(ended.si_status).name}"
            with contextlib.suppress(OSError), Path(spawn.log).open("a") as log:
                log.write(f"\n{how}\n")
        with contextlib.suppress(BrokenPipeError):
            _say(Spawned(server=spawn.server, pid=ended.si_pid, error=how))
        os.waitpid(ended.si_pid, 0)  # only now: whoever sees it gone finds the note


def _end_with_coordinator(folder: str | None = None) -> None:
    """Exit as soon as the other end of stdin closes; from a thread, so that nothing delays it."""

    def watch() -> None:
        poll = select.poll()
        poll.register(0, 0)  # a hang-up is always reported
        poll.poll()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _become_server(spawn: Spawn, *, is_for_modules: bool) -> None:
    """Turn this fork into a server; never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _end_with_coordinator()
        log = os.open(spawn.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        transport, listener = _listen(spawn)
        if is_for_modules:
            serve_modules(spawn.server, transport, listener)
        else:
            serve(spawn.server, transport, listener, device=spawn.device)
    except BaseException as exc:  # noqa: BLE001 - its last line says why, whatever it was
        kind = "" if isinstance(exc, PartwiseError) else f"{type(exc).__name__}: "
        print(f"{kind}{exc}", file=sys.stderr, flush=True)
        os._exit(1)


def _listen(spawn: Spawn) -> tuple[TcpTransport, TcpListener]:
    """Listen on loopback, and tell the coordinator where, or why not."""
    try:
        if spawn.cpus:
            os.sched_setaffinity(0, spawn.cpus)
        check_device_here(spawn.device)  # here: CUDA does not survive a fork
        transport = TcpTransport(spawn.token.encode())
        listener = transport.listen(Address("127.0.0.1", 0), spawn.server)
    except (PartwiseError, OSError) as exc:
        _say(Spawned(server=spawn.server, pid=os.getpid(), error=str(exc)))
        raise
    _say(Spawned(server=spawn.server, pid=os.getpid(), port=listener.address.port))
    return transport, listener


def _say(answer: Spawned) -> None:
    # One write of less than PIPE_BUF bytes: lines of several servers do not mix.
    os.write(1, msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
