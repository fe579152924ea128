"""The main function of one server process."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Protocol

from partwise.distributor.devices import CPU, check_runner_on
from partwise.part.runner import Runner, RunnerOptions
from partwise.part.server import PartServer
from partwise.remote.transport import Listener, Transport

MODULE = "module"
"""Among runners: parts of captured modules."""


def import_runners(runners: Sequence[str], *architectures: str) -> None:
    """Import now what the first parts of these ``runners`` and architectures (none given: all)
    would import; the runner "module" is that of captured modules."""
    if MODULE in runners:
        importlib.import_module("partwise.part.module.assignment")
    if "onnx" in runners:
        importlib.import_module("partwise.part.onnx.runner")
    if "torch" in runners:
        _import_torch(architectures)


def _import_torch(architectures: Sequence[str]) -> None:
    importlib.import_module("partwise.part.torch.runner")
    from partwise.part.torch.families import FAMILIES

    for architecture in architectures or FAMILIES:
        if family := FAMILIES.get(architecture):  # loading refuses another, and says so
            importlib.import_module(family.source)


def check_device_here(device: str) -> None:
    """Refuse a device that is not there; imports torch where it is not the CPU.

    Raises:
        LaunchError: says what is there.
    """
    if device != CPU:
        from partwise.part.torch.place import find_device

        find_device(device)


def make_torch_runner(options: RunnerOptions) -> Runner:
    """The torch runner; imports torch when the first part is loaded."""
    from partwise.part.torch.runner import TorchRunner

    return TorchRunner(options)


def make_onnx_runner(options: RunnerOptions) -> Runner:
    """The onnx runner; imports ONNX Runtime when the first part is loaded."""
    from partwise.part.onnx.runner import OnnxRunner

    return OnnxRunner(options)


def make_planned_runner(options: RunnerOptions) -> Runner:
    """The runner that the plan gives the part.

    Raises:
        PlanError: it does not compute on the server's device.
    """
    runner = options.plan.part(options.part).runner
    check_runner_on(runner, options.device, options.part)
    return make_onnx_runner(options) if runner == "onnx" else make_torch_runner(options)


def serve(
    name: str,
    transport: Transport,
    listener: Listener,
    *,
    threads: int = 0,
    device: str = CPU,
    on_serving: Callable[[], None] | None = None,
) -> None:
    """Serve parts until SIGTERM or SIGINT, then end the process.

    ``threads`` are for coordinators that leave their number to the server; 0: one a processor.
    Parts are computed on ``device``.
    ``on_serving`` is called when signals are already handled.
    """
    own_threads = threads or len(os.sched_getaffinity(0))

    def make_runner(options: RunnerOptions) -> Runner:
        return make_planned_runner(
            dataclasses.replace(options, threads=options.threads or own_threads, device=device)
        )

    _serve_until_signal(PartServer(name, transport, listener, make_runner), on_serving)


def serve_modules(
    name: str,
    transport: Transport,
    listener: Listener,
    *,
    threads: int = 0,
    on_serving: Callable[[], None] | None = None,
) -> None:
    """Serve parts of captured modules; all else as `serve`."""
    from partwise.part.module.server import ModuleServer

    own_threads = threads or len(os.sched_getaffinity(0))
    _serve_until_signal(ModuleServer(name, transport, listener, threads=own_threads), on_serving)


class _Server(Protocol):
    """What serves until it is stopped."""

    def run(self) -> None: ...

    def stop(self) -> None: ...


def _serve_until_signal(server: _Server, on_serving: Callable[[], None] | None) -> None:
    """Run ``server`` until SIGTERM or SIGINT, then end the process."""

    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if on_serving is not None:
        on_serving()
    server.run()
    # Interpreter shutdown would only tear down what the process's end frees anyway.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
