"""What a runner lets be measured without a model: the kernels that it computes with.

Each runner has a module with a ``KERNELS``; here they are found. A new runner adds its module
to `KERNEL_MODULES`.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from partwise.part.runner import Runner, RunnerOptions

KERNEL_MODULES = ("partwise.part.torch.kernels", "partwise.part.onnx.kernels")
"""Where two runners have kernels of one precision, the first is the one that computes it."""


class Reading(Protocol):
    """A working set that is read again and again: ``num_bytes`` in all in each run."""

    num_bytes: int

    def run(self) -> None:
        """Read, and do nothing else with what was read."""
        ...


class Multiplication(Protocol):
    """Matrices of one shape that a pass multiplies one after the other.

    ``num_matrices`` of them hold ``num_bytes`` and multiply ``macs_per_token``.
    """

    num_matrices: int
    num_bytes: int
    macs_per_token: int

    def run(self, tokens: int) -> None:
        """Multiply all matrices with ``tokens`` tokens, by the runner's kernel for so many."""
        ...


class Kernels(Protocol):
    """The kernels of one runner. All methods belong to one thread of a process of its own."""

    precisions: tuple[str, ...]

    def preload(self) -> None:
        """Import what measuring needs, with as few threads as a process needs to fork."""
        ...

    def use_threads(self, count: int) -> None:
        """Compute with ``count`` threads from now on."""
        ...

    def read(self, working_set_bytes: int) -> Reading:
        """A working set, read so often in a run that its call costs nothing beside that."""
        ...

    def multiply(self, precision: str, shape: tuple[int, int], num_bytes: int) -> Multiplication:
        """Matrices of ``shape`` (outputs, inputs), of about ``num_bytes`` in all, at least one."""
        ...

    def make_runner(self, options: RunnerOptions) -> Runner:
        """See `RunnerFactory`."""
        ...


def load_kernels() -> list[Kernels]:
    """The kernels of every runner; imports what they compute with."""
    return [cast("Kernels", importlib.import_module(name).KERNELS) for name in KERNEL_MODULES]
