"""What a hop costs: the part server's real loop with a runner that does nothing, against a
raw-socket ping-pong (`recv_into`, NODELAY) interleaved in the same run, a hundred round trips
of each in turn.

A raw client plays both: against a raw echo, and, after the real handshake and assignment,
against the part server with frames made beforehand. The difference is what a part adds to
the wire: receiving, decoding, its state machine, encoding, sending. The coordinator's own
side of a round trip is measured too (`whole_us`): its link and poller instead of the raw
client.

    python bench/hop.py [--turns N]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import struct
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from harness import SMOLLM2, has_defaults, report, spread
from partwise.cli.format import format_table
from partwise.distributor import balance_layers
from partwise.engine.assembly import Assembly, Deployment
from partwise.model import open_model
from partwise.part.runner import RunnerOptions
from partwise.part.server import PartServer
from partwise.remote.authenticate import new_token
from partwise.remote.frame import HEADER_BYTES, Frame, FrameKind, Row, encode_frame
from partwise.remote.layout import Array
from partwise.remote.link import WINDOW_BYTES, Link
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address

CLIENT_SIDE, SERVER_SIDE = 0, -1
CHUNK = struct.Struct("<IBBH")
DATA_LANE, CREDIT_LANE = 1, 2

ROUND_TRIPS = 100
"""Of one kind in a row, before the next kind has its turn: a ping-pong is back to back."""
SIZES = {"4k": 512, "256k": 32768}
"""Token ids of 8 bytes in a frame."""


class IdleRunner:
    """Does nothing: returns a tensor that it made before."""

    def __init__(self, options: RunnerOptions) -> None:
        self.weight_bytes = self.host_bytes = 0
        self.notes: tuple[str, ...] = ()
        self._outputs = {n: np.zeros(n, np.int64) for n in SIZES.values()}

    def run(
        self, rows: Sequence[Row], inputs: Sequence[Array], between_layers: Callable[[], None]
    ) -> tuple[Array, ...]:
        return (self._outputs[len(inputs[0])],)

    def release(self, sequences: Sequence[int]) -> None:
        pass


def pin(side: int) -> None:
    """Keep this process on the first or the last processor: both sides of every ping-pong are
    on two processors, as parts are, whatever the scheduler would choose."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[side]})


def start_process(serve: Callable[[], None]) -> int:
    """The id of a forked process on the servers' side that runs ``serve`` and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            pin(SERVER_SIDE)
            serve()
        except Exception:  # noqa: BLE001 - an error must not unwind the parent's frames here
            traceback.print_exc()
        finally:
            os._exit(0)
    return pid


def end_process(pid: int) -> None:
    """End what `start_process` started."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def start_raw_echo(num_bytes: int) -> tuple[socket.socket, int]:
    """A process that sends back every ``num_bytes`` it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = server.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        view = memoryview(bytearray(num_bytes))
        while receive_exactly(sock, view):
            sock.sendall(view)

    with server:
        pid = start_process(serve)
        sock = socket.create_connection(server.getsockname())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, pid


def receive_exactly(sock: socket.socket, view: memoryview) -> bool:
    """Fill ``view``; whether the other side is still there."""
    done = 0
    while done < len(view):
        count = sock.recv_into(view[done:])
        if not count:
            return False
        done += count
    return True


def start_server(token: bytes) -> tuple[Address, int]:
    """A part server with the idle runner in a process of its own."""
    reader, writer = os.pipe()

    def serve() -> None:
        transport = TcpTransport(token)
        listener = transport.listen(Address("127.0.0.1", 0), "idle")
        os.write(writer, str(listener.address.port).encode())
        PartServer("idle", transport, listener, IdleRunner).run()

    pid = start_process(serve)
    os.close(writer)  # so that its end is seen here
    port = int(os.read(reader, 16))
    os.close(reader)
    return Address("127.0.0.1", port), pid


class RawDriver:
    """Frames made beforehand over the blocking socket of an authenticated link."""

    def __init__(self, assembly: Assembly, tensor: Array) -> None:
        self._socket = socket.socket(fileno=os.dup(assembly.parts[0].link.channel.fileno()))
        self._socket.setblocking(True)
        self._num_tokens = len(tensor)
        encoded = encode_frame(_frame(0, tensor))
        body = b"".join(encoded.buffers)
        self._data = bytearray(CHUNK.pack(len(body), DATA_LANE, 0, 0) + body)
        self._view = memoryview(bytearray(len(self._data)))
        self._owed_bytes = 0

    def round_trip_ns(self, number: int) -> int:
        """One frame there and back."""
        header = CHUNK.size
        struct.pack_into("<I", self._data, header + 16, number + 1)  # microbatch
        struct.pack_into("<Q", self._data, header + 20, number + 1)  # step
        struct.pack_into("<I", self._data, header + HEADER_BYTES + 8, number * self._num_tokens)
        start_ns = time.perf_counter_ns()
        self._socket.sendall(self._data)
        receive_exactly(self._socket, self._view)
        stop_ns = time.perf_counter_ns()
        self._give_credit()
        return stop_ns - start_ns

    def _give_credit(self) -> None:
        """Take a credit chunk out of the way, and give credit back as a link would."""
        view, size = self._view, CHUNK.size
        if view[4] == CREDIT_LANE:
            rest = bytes(view[size:])
            view[: len(rest)] = rest
            receive_exactly(self._socket, view[len(rest) :])
        self._owed_bytes += len(view) - size
        if self._owed_bytes * 4 >= WINDOW_BYTES:
            self._socket.sendall(CHUNK.pack(self._owed_bytes, CREDIT_LANE, 0, 0))
            self._owed_bytes = 0


class LinkDriver:
    """A coordinator's side of the ping-pong: its poller and link."""

    def __init__(self, assembly: Assembly, tensor: Array) -> None:
        self._assembly = assembly
        self._tensor = tensor
        self._is_back = False
        assembly.poller.take_over(self._on_frame, self._on_lost)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        link.release(frame)
        self._is_back = True

    def _on_lost(self, link: Link, error: Exception) -> None:
        raise error

    def round_trip_ns(self, number: int) -> int:
        """One frame there and back."""
        start_ns = time.perf_counter_ns()
        self._is_back = False
        self._assembly.parts[0].link.send(_frame(number, self._tensor))
        while not self._is_back:
            self._assembly.poller.poll(10.0)
        return time.perf_counter_ns() - start_ns


def _frame(number: int, tensor: Array) -> Frame:
    return Frame(
        kind=FrameKind.FORWARD, plan_version=1, microbatch=number + 1, step=number + 1,
        rows=(Row(1, number * len(tensor), len(tensor)),), tensors=(tensor,),
    )  # fmt: skip


def assemble(model_path: Path, token: bytes, address: Address) -> Assembly:
    """The idle server as the only part of a plan."""
    model = open_model(model_path)
    deployment = Deployment(
        name=new_token().decode(),
        plan=balance_layers(model, ["idle"]),
        model=model,
        model_path=str(model_path),
        addresses={"idle": address},
        threads=1,
        on_progress=lambda done, total: None,
        explain=lambda server: "",
    )
    return Assembly(deployment, TcpTransport(token))


def measure(model_path: Path, num_tokens: int, turns: int) -> dict[str, list[float]]:
    """Round trips of one payload in microseconds: for each turn the median of each kind."""
    tensor = np.zeros(num_tokens, np.int64)
    token = new_token()
    with ExitStack() as stack:
        addresses = []
        for _ in range(2):
            address, pid = start_server(token)
            stack.callback(end_process, pid)
            addresses.append(address)
        assemblies = [assemble(model_path, token, address) for address in addresses]
        sock, pid = start_raw_echo(tensor.nbytes)
        stack.callback(end_process, pid)
        stack.enter_context(sock)
        kinds = {
            "raw": make_raw_round_trip(sock, tensor),
            "part": RawDriver(assemblies[0], tensor).round_trip_ns,
            "whole": LinkDriver(assemblies[1], tensor).round_trip_ns,
        }
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        pin(CLIENT_SIDE)
        return take_turns(kinds, turns)


def make_raw_round_trip(sock: socket.socket, tensor: Array) -> Callable[[int], int]:
    """The bytes of ``tensor`` to the raw echo and back, in nanoseconds."""
    data, view = tensor.tobytes(), memoryview(bytearray(tensor.nbytes))

    def round_trip_ns(number: int) -> int:
        start_ns = time.perf_counter_ns()
        sock.sendall(data)
        receive_exactly(sock, view)
        return time.perf_counter_ns() - start_ns

    return round_trip_ns


def take_turns(kinds: dict[str, Callable[[int], int]], turns: int) -> dict[str, list[float]]:
    """For each kind the median of each of its turns, in microseconds."""
    medians: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(turns):
        for kind, round_trip_ns in kinds.items():
            first = turn * ROUND_TRIPS
            times = [round_trip_ns(first + i) / 1e3 for i in range(ROUND_TRIPS)]
            medians[kind].append(statistics.median(times))
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--model", type=Path, default=SMOLLM2)
    args = parser.parse_args()
    figures: dict[str, float] = {}
    rows: list[tuple[str, str, str, str, float, float]] = []
    rounds: dict[str, dict[str, list[float]]] = {}
    for name, num_tokens in SIZES.items():
        times = rounds[name] = measure(args.model, num_tokens, args.turns)
        raw, ours, whole = (spread(times[kind]) for kind in ("raw", "part", "whole"))
        added_us = statistics.median(
            mine - theirs for mine, theirs in zip(times["part"], times["raw"], strict=True)
        )
        figures |= {
            f"raw_us_{name}": raw.median,
            f"partwise_us_{name}": ours.median,
            f"whole_us_{name}": whole.median,
            f"added_us_{name}": added_us,
            f"added_ratio_{name}": added_us / raw.median,
        }
        rows.append((name, str(raw), str(ours), str(whole), added_us, added_us / raw.median))
    headers = ("payload", "raw us", "part us", "part + coordinator us", "added us", "added / raw")
    print(format_table(headers, rows))
    report("hop", figures, rounds, is_default=has_defaults(parser, args))


if __name__ == "__main__":
    main()
