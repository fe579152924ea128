"""The main function of one server process."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from partwise.part.runner import Runner, RunnerOptions
from partwise.part.server import PartServer
from partwise.remote.transport import Listener, Transport


def make_torch_runner(options: RunnerOptions) -> Runner:
    """The torch runner; imports torch when the first part is loaded."""
    from partwise.part.torch.runner import TorchRunner

    return TorchRunner(options)


def serve(name: str, transport: Transport, listener: Listener) -> None:
    """Serve parts until SIGTERM or SIGINT."""
    server = PartServer(name, transport, listener, make_torch_runner)

    def stop(number: int, frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    server.run()
    # Interpreter shutdown would only tear down what the process's end frees anyway.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
