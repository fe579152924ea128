"""The Python interface of modules: deploy any `torch.nn.Module` in parts, call it as it is.

with partwise.deploy(module, example, parts=3, strategy="count") as net:
    logits = net(images)
"""

from __future__ import annotations

import inspect
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from partwise.capture.capturing import capture
from partwise.capture.files import save_captured
from partwise.capture.layouts import COORDINATOR
from partwise.capture.schedule import count_pushed
from partwise.capture.trace import bind_call
from partwise.engine.module.assembly import ModuleAssembly, ModuleTarget
from partwise.engine.module.coordinator import ModuleCoordinator
from partwise.engine.prepared import read_addresses
from partwise.errors import UsageError
from partwise.launch.listening import MODULE
from partwise.launch.local import LocalServers, share_cpus
from partwise.module_plan import ModuleWish, PreparedModule, prepare_module
from partwise.remote.authenticate import new_token, read_token
from partwise.remote.tcp import TcpTransport
from partwise.remote.transport import Address, Transport

if TYPE_CHECKING:
    import torch

EXCHANGE_SHARE = 0.8
"""Of what a call may take, for how long a part waits for another."""


class ModuleNet:
    """A module deployed over servers. A context manager: leaving it ends what it started.

    ``model`` is its description, ``plan`` says who holds what. It may be called from any thread;
    one call is computed at a time.
    """

    def __init__(
        self, prepared: PreparedModule, module: torch.nn.Module, coordinator: ModuleCoordinator
    ) -> None:
        self.model = prepared.model
        self.plan = prepared.plan
        self._prepared = prepared
        self._signature = inspect.signature(module.forward)
        self._coordinator = coordinator
        self._local: LocalServers | None = None
        self._folder: Path | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives for these arguments; the first axis of the tensors is the batch.

        Raises:
            UsageError: arguments that it was not captured for.
            PartwiseError: a part failed: the deployment is over.
        """
        graph = self._prepared.captured.graph
        call = bind_call(graph.name, self._signature, args, kwargs)
        lacking = [e.argument for e in graph.inputs if e.argument not in call.tensors]
        if lacking or len(call.tensors) > len(graph.inputs):
            wanted = ", ".join(entry.argument for entry in graph.inputs)
            raise UsageError(
                f"{graph.name} was captured with the tensors {wanted}, it is called with"
                f" {', '.join(call.tensors)}: give the same, or capture it with these"
            )
        for name, value in call.others.items():
            if repr(value) != (captured := graph.constants.get(name, repr(value))):
                raise UsageError(
                    f"{graph.name} was captured with {name} = {captured}, it is called with"
                    f" {value!r}: give the same, or capture it with this one"
                )
        return self._coordinator.call({e.name: call.tensors[e.argument] for e in graph.inputs})

    @property
    def notes(self) -> list[str]:
        """What the plan says to people: what was rounded, and which layers are held whole."""
        return list(self.plan.notes)

    def predict_pushed(self, batch: int) -> dict[tuple[str, str], int]:
        """The bytes of tensors that each part (source, target) pushes to another in a call of
        ``batch`` rows, by the plan. Headers of frames come on top."""
        counted = count_pushed(self._prepared.schedule, batch)
        return {pair: n for pair, n in counted.items() if COORDINATOR not in pair}

    def count_pushed(self) -> dict[tuple[str, str], int]:
        """The bytes of tensors that each part (source, target) has pushed to another since it was
        deployed, measured where they were sent."""
        counted = self._coordinator.count_pushed()
        return {p: c.tensor_bytes for p, c in counted.items() if COORDINATOR not in p}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the servers of this machine that the deployment started, by name."""
        return self._local.pids if self._local is not None else {}

    def close(self) -> None:
        """End every server that the deployment started, and remove what it saved for them."""
        try:
            self._coordinator.close()
        finally:
            if self._local is not None:
                self._local.close()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class Running:
    """How its servers run: the token of those that listen and their threads (0: each decides), the
    threads of so many local ones, whether these are pinned, what a call may take, and the folder
    for what they read (None: one that goes away)."""

    token_file: Path | None
    listening_threads: int
    choose_threads: Callable[[int], int]
    is_pinned: bool
    step_s: float
    folder: Path | None


def deploy_module(
    module: torch.nn.Module, examples: Any, wish: ModuleWish, running: Running
) -> ModuleNet:
    """See `partwise.deploy`."""
    import torch

    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{module!r} is no model: give the path of a directory, or a torch.nn.Module"
        )
    addresses = read_addresses(wish.servers)
    is_own = running.folder is None
    folder = Path(running.folder or tempfile.mkdtemp(prefix="partwise-module-")).resolve()
    try:
        graph, tensors = capture(module, examples)
        captured = save_captured(graph, tensors, folder)
        prepared = prepare_module(captured, wish)
        if addresses:
            net = _start_listening(prepared, module, addresses, running)
        else:
            net = _start_local(prepared, module, running)
    except BaseException:
        if is_own:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    net._folder = folder if is_own else None
    return net


def _start_listening(
    prepared: PreparedModule,
    module: torch.nn.Module,
    addresses: Mapping[str, Address],
    running: Running,
) -> ModuleNet:
    if running.token_file is None:
        raise UsageError("servers need a token_file, the token that the servers were given")
    transport = TcpTransport(read_token(running.token_file))
    target = _make_target(prepared, addresses, running, running.listening_threads)
    return start_module(prepared, module, target, transport, running.step_s)


def _start_local(prepared: PreparedModule, module: torch.nn.Module, running: Running) -> ModuleNet:
    token, count = new_token(), len(prepared.plan.parts)
    threads = running.choose_threads(count)
    cpus: Sequence[Sequence[int]] = [()] * count
    if running.is_pinned:
        cpus = share_cpus(count, threads)
    local = LocalServers("", token, num_threads=threads * count, runners=(MODULE,))
    try:
        addresses = local.start([part.server for part in prepared.plan.parts], cpus)
        target = _make_target(prepared, addresses, running, threads, local)
        transport = TcpTransport(token)
        net = start_module(prepared, module, target, transport, running.step_s)
    except BaseException:
        local.close()
        raise
    net._local = local
    return net


def _make_target(
    prepared: PreparedModule,
    addresses: Mapping[str, Address],
    running: Running,
    threads: int,
    local: LocalServers | None = None,
) -> ModuleTarget:
    return ModuleTarget(
        name=secrets.token_hex(8),
        plan=prepared.plan,
        schedule=prepared.schedule,
        path=str(prepared.captured.path),
        addresses=addresses,
        threads=threads,
        # Parts give up before the coordinator does: they know who keeps them waiting.
        exchange_s=EXCHANGE_SHARE * running.step_s,
        explain=local.explain if local is not None else lambda server: "",
    )


def start_module(
    prepared: PreparedModule,
    module: torch.nn.Module,
    target: ModuleTarget,
    transport: Transport,
    step_s: float,
) -> ModuleNet:
    """Make the parts ready on servers that listen."""
    assembly = ModuleAssembly(target, transport)
    coordinator = ModuleCoordinator(prepared.captured.graph, assembly, step_s=step_s)
    return ModuleNet(prepared, module, coordinator)
