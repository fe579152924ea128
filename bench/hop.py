"""What a hop costs: the part server's real loop with a runner that does nothing, against a
raw-socket ping-pong (`recv_into`, NODELAY) interleaved in the same run.

The partwise side is whole: a coordinator's poller and link, authentication, framing, the
part's state machine, and back. One round trip of each side in turn.

    python bench/hop.py [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import SMOLLM2, report, spread

from partwise.cli.format import format_table
from partwise.distributor import balance_layers
from partwise.engine.assembly import Assembly, Deployment
from partwise.model import open_model
from partwise.part.runner import RunnerOptions
from partwise.part.server import PartServer
from partwise.remote.authenticate import new_token
from partwise.remote.frame import Array, Frame, FrameKind, Row
from partwise.remote.link import Link
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address

WIDTH = 1024
SIZES = {"4k": 1, "256k": 64}
"""Rows of WIDTH fp32 values."""


class IdleRunner:
    """Does nothing: returns a tensor that it made before."""

    def __init__(self, options: RunnerOptions) -> None:
        self.weight_bytes = 0
        self._outputs = {n: np.zeros((n, WIDTH), np.float32) for n in SIZES.values()}

    def run(
        self, rows: Sequence[Row], inputs: Sequence[Array], between_layers: Callable[[], None]
    ) -> tuple[Array, ...]:
        return (self._outputs[len(inputs[0])],)

    def release(self, sequences: Sequence[int]) -> None:
        pass


def start_raw_echo(num_bytes: int) -> tuple[socket.socket, int]:
    """A process that sends back every ``num_bytes`` it gets."""
    server = socket.create_server(("127.0.0.1", 0))
    pid = os.fork()
    if pid == 0:
        sock, _ = server.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        view = memoryview(bytearray(num_bytes))
        while receive_exactly(sock, view):
            sock.sendall(view)
        os._exit(0)
    sock = socket.create_connection(server.getsockname())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.close()
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
    pid = os.fork()
    if pid == 0:
        transport = TcpTransport(token)
        listener = transport.listen(Address("127.0.0.1", 0), "idle")
        os.write(writer, str(listener.address.port).encode())
        PartServer("idle", transport, listener, IdleRunner).run()
        os._exit(0)
    port = int(os.read(reader, 16))
    return Address("127.0.0.1", port), pid


@dataclass(slots=True)
class Driver:
    """A coordinator's side of the ping-pong."""

    assembly: Assembly
    is_back: bool = False
    position: int = 0

    def __post_init__(self) -> None:
        self.assembly.poller.take_over(self._on_frame, self._on_lost)

    def _on_frame(self, link: Link, frame: Frame) -> None:
        link.release(frame)
        self.is_back = True

    def _on_lost(self, link: Link, error: Exception) -> None:
        raise error

    def round_trip_ns(self, tensor: Array) -> int:
        """One frame there and back."""
        start_ns = time.perf_counter_ns()
        row = Row(1, self.position, 1)
        self.position += 1
        self.is_back = False
        frame = Frame(
            kind=FrameKind.FORWARD, plan_version=1, microbatch=self.position, step=self.position,
            rows=(row,), tensors=(tensor,),
        )  # fmt: skip
        self.assembly.parts[0].link.send(frame)
        while not self.is_back:
            self.assembly.poller.poll(10.0)
        return time.perf_counter_ns() - start_ns


def assemble(model_path: Path, token: bytes, address: Address) -> Driver:
    """The idle server as the only part of a plan."""
    model = open_model(model_path)
    deployment = Deployment(
        name="hop",
        plan=balance_layers(model, ["idle"]),
        model_path=str(model_path),
        addresses={"idle": address},
        threads=1,
        is_deterministic=False,
        on_progress=lambda done, total: None,
        explain=lambda server: "",
    )
    return Driver(Assembly(deployment, TcpTransport(token)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--model", type=Path, default=SMOLLM2)
    args = parser.parse_args()
    token = new_token()
    address, server_pid = start_server(token)
    driver = assemble(args.model, token, address)
    figures: dict[str, float] = {}
    rows: list[tuple[str, str, str, float, float]] = []
    for name, num_rows in SIZES.items():
        tensor = np.zeros((num_rows, WIDTH), np.float32)
        sock, echo_pid = start_raw_echo(tensor.nbytes)
        data, view = tensor.tobytes(), memoryview(bytearray(tensor.nbytes))
        raw, ours = [], []
        for _ in range(args.rounds):
            start_ns = time.perf_counter_ns()
            sock.sendall(data)
            receive_exactly(sock, view)
            raw.append((time.perf_counter_ns() - start_ns) / 1e3)
            ours.append(driver.round_trip_ns(tensor) / 1e3)
        sock.close()
        os.waitpid(echo_pid, 0)
        raw_us, ours_us = spread(raw), spread(ours)
        added_us = ours_us.median - raw_us.median
        figures |= {
            f"raw_us_{name}": raw_us.median,
            f"partwise_us_{name}": ours_us.median,
            f"added_us_{name}": added_us,
            f"added_ratio_{name}": added_us / raw_us.median,
        }
        rows.append((name, str(raw_us), str(ours_us), added_us, added_us / raw_us.median))
    os.kill(server_pid, signal.SIGKILL)
    os.waitpid(server_pid, 0)
    print(format_table(("payload", "raw us", "partwise us", "added us", "added / raw"), rows))
    report("hop", figures)


if __name__ == "__main__":
    main()
