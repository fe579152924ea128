"""Captured modules over parts that are threads of the test's process."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from partwise.capture.arguments import read_argument
from partwise.capture.capturing import capture
from partwise.capture.describe import describe_graph
from partwise.capture.files import Captured, open_captured, read_patterns, save_captured
from partwise.capture.layouts import COORDINATOR
from partwise.capture.passes import Pass
from partwise.capture.schedule import Parcel, Schedule, compile_schedule
from partwise.distributor.plan import Plan
from partwise.engine.module.assembly import ModuleTarget
from partwise.errors import RemoteError
from partwise.model import Model
from partwise.module_net import ModuleNet, start_module
from partwise.module_plan import PreparedModule
from partwise.part.module.runner import ModuleRunner
from partwise.part.module.server import ModuleServer
from partwise.remote.authenticate import Hello
from partwise.remote.layout import Array
from partwise.remote.memory import MemoryTransport
from partwise.remote.transport import Address
from partwise.store import Store
from support.nets import make_net

WAIT_S = 10.0


def capture_to(path: Path, module: nn.Module, examples: Any) -> tuple[Captured, Model]:
    """``module`` captured into ``path`` and read from there again, and its description."""
    save_captured(*capture(module, examples), path)
    captured = open_captured(path)
    return captured, describe_graph(captured.graph)


@dataclass(frozen=True, kw_only=True)
class CapturedNet:
    """One of `nets.py`, captured with 3 rows."""

    net: nn.Module
    make_batch: Callable[[int], tuple[torch.Tensor, ...]]
    captured: Captured
    model: Model
    folder: tempfile.TemporaryDirectory[str]  # goes away with it


@cache
def capture_net(name: str) -> CapturedNet:
    """The net called ``name``, captured once for all tests: they leave it as it is."""
    net, make_batch = make_net(name)
    folder = tempfile.TemporaryDirectory(prefix="partwise-test-")
    captured, model = capture_to(Path(folder.name), net, make_batch(3))
    return CapturedNet(
        net=net, make_batch=make_batch, captured=captured, model=model, folder=folder
    )


def list_tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of a module's result, whatever holds them."""
    if isinstance(result, torch.Tensor):
        return [result]
    items = list(result.values()) if hasattr(result, "values") else list(result)
    return [tensor for item in items if item is not None for tensor in list_tensors(item)]


def call_whole(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What the unsplit module gives with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return list_tensors(module(*inputs))
    finally:
        torch.set_num_threads(threads)


def find_largest_error(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """The largest difference of any element."""
    assert len(ours) == len(theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


class Exchanges:
    """Parcels between threads without servers. ``sent`` counts bytes by (source, target)."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str], int] = {}
        self._parcels: dict[tuple[str, str, int], Sequence[Array]] = {}
        self._changed = threading.Condition()

    def push(self, parcel: Parcel, tensors: Sequence[Array]) -> None:
        """See `Post.push`."""
        with self._changed:
            pair = parcel.source, parcel.target
            self._parcels[(*pair, parcel.phase)] = [tensor.copy() for tensor in tensors]
            self.sent[pair] = self.sent.get(pair, 0) + sum(tensor.nbytes for tensor in tensors)
            self._changed.notify_all()

    def take(self, parcel: Parcel) -> Sequence[Array]:
        """See `Post.take`."""
        key = parcel.source, parcel.target, parcel.phase
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._parcels, WAIT_S), f"{key} never came"
            return self._parcels.pop(key)


class LocalRun:
    """A captured module whose parts run as threads, each pass anew."""

    def __init__(self, captured: Captured, plan: Plan) -> None:
        self.graph = captured.graph
        with Store.open(captured.path) as store:
            patterns = read_patterns(self.graph, store)
            self.schedule: Schedule = compile_schedule(self.graph, plan, patterns)
            self.runners = [ModuleRunner(self.schedule, part.name, store) for part in plan.parts]

    def call(self, *inputs: torch.Tensor) -> tuple[list[torch.Tensor], Exchanges]:
        """The results' tensors, and what was exchanged."""
        batch, post = len(inputs[0]), Exchanges()
        threads = [
            threading.Thread(target=self._run, args=(runner, batch, post), daemon=True)
            for runner in self.runners
        ]
        current = Pass(self.schedule, COORDINATOR, batch)
        for entry, tensor in zip(self.graph.inputs, inputs, strict=True):
            current.own[entry.name] = tensor
        for thread in threads:
            thread.start()
        for parcel in self.schedule.list_parcels(COORDINATOR):
            post.push(parcel, current.pack(parcel))
        for phase in self.schedule.phases[COORDINATOR][1:]:
            for parcel in phase.received:
                current.open(parcel, post.take(parcel))
        for thread in threads:
            thread.join(WAIT_S)
        result = read_argument(self.graph.output, {"node": current.find}, batch)
        return list_tensors(result), post

    @staticmethod
    def _run(runner: ModuleRunner, batch: int, post: Exchanges) -> None:
        torch.set_num_threads(1)
        runner.run(batch, post, lambda: None)


class ModuleParts:
    """A captured module over servers that are threads, joined in memory. A context manager."""

    def __init__(
        self,
        captured: Captured,
        plan: Plan,
        module: nn.Module,
        *,
        seed: int | None = None,
        step_s: float = WAIT_S,
        peer_s: float = WAIT_S,
    ) -> None:
        self._transport = MemoryTransport(seed)
        self._threads: list[threading.Thread] = []
        self.servers: dict[str, ModuleServer] = {}
        self.addresses: dict[str, Address] = {}
        for part in plan.parts:
            listener = self._transport.listen(Address("127.0.0.1", 0), part.server)
            server = ModuleServer(part.server, self._transport, listener)
            self.servers[part.server], self.addresses[part.server] = server, listener.address
            thread = threading.Thread(target=server.run, name=part.server, daemon=True)
            thread.start()
            self._threads.append(thread)
        try:
            self.net = self._start(captured, plan, module, step_s, peer_s)
        except BaseException:
            self._stop()
            raise

    def _start(
        self, captured: Captured, plan: Plan, module: nn.Module, step_s: float, peer_s: float
    ) -> ModuleNet:
        model = describe_graph(captured.graph)
        with Store.open(captured.path) as store:
            patterns = read_patterns(captured.graph, store)
        schedule = compile_schedule(captured.graph, plan, patterns)
        prepared = PreparedModule(captured=captured, model=model, plan=plan, schedule=schedule)
        target = ModuleTarget(
            name="test", plan=plan, schedule=schedule, path=str(captured.path),
            addresses=self.addresses, threads=1, exchange_s=peer_s, explain=lambda server: "",
        )  # fmt: skip
        return start_module(prepared, module, target, self._transport, step_s)

    def stop_server(self, name: str) -> None:
        """End one server, as if its process had ended."""
        self.servers[name].stop()
        stranger = Hello(role="part", name="stranger", deployment="another")
        with contextlib.suppress(RemoteError, OSError):
            self._transport.connect(self.addresses[name], stranger).close()

    def _stop(self) -> None:
        for name in self.servers:
            self.stop_server(name)
        for thread in self._threads:
            thread.join(WAIT_S)
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        assert not alive, f"servers {alive} did not stop in {WAIT_S:g} s"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.net.close()
        self._stop()
