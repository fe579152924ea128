"""The torch runner's kernels, to be measured: the linear layers of its blocks, in
fp32, and a plain sum for what memory and caches can do at best."""

from __future__ import annotations

import importlib

import torch

from partwise.part.runner import Runner, RunnerOptions
from partwise.part.torch.linear import FewRowsLinear

LEAST_READ_BYTES = 16 << 20
"""Of a run: it takes 80 us and more, a call 2 us."""
ARCHITECTURE = "LlamaForCausalLM"
"""Whose modules are imported by `TorchKernels.preload`."""


class TorchReading:
    """See `Reading`."""

    def __init__(self, working_set_bytes: int) -> None:
        ones = torch.ones(max(1, working_set_bytes // 4))
        # A sum over an expanded dimension reads the same memory once for each step of it.
        self._ones = ones.expand(max(1, LEAST_READ_BYTES // ones.nbytes), -1)
        self.num_bytes = 4 * self._ones.numel()

    def run(self) -> None:
        """See `Reading.run`."""
        self._ones.sum()


class TorchMultiplication:
    """See `Multiplication`. Every element is one: no kernel looks at values."""

    def __init__(self, shape: tuple[int, int], num_bytes: int) -> None:
        outputs, inputs = shape
        self.num_matrices = max(1, num_bytes // (4 * outputs * inputs))
        self.macs_per_token = self.num_matrices * outputs * inputs
        self.num_bytes = 4 * self.macs_per_token
        self._layers = [
            FewRowsLinear(inputs, outputs, bias=False, device="meta")
            for _ in range(self.num_matrices)
        ]
        for layer, weight in zip(
            self._layers, torch.ones(self.num_matrices, outputs, inputs), strict=True
        ):
            layer.load_state_dict({"weight": weight}, assign=True)
        self._inputs: dict[int, torch.Tensor] = {}

    @torch.inference_mode()
    def run(self, tokens: int) -> None:
        """See `Multiplication.run`."""
        if tokens not in self._inputs:
            self._inputs[tokens] = torch.ones(tokens, self._layers[0].in_features)
        hidden = self._inputs[tokens]
        for layer in self._layers:
            layer(hidden)


class TorchKernels:
    """See `Kernels`."""

    precisions = ("fp32",)

    def preload(self) -> None:
        """See `Kernels.preload`."""
        from partwise.part.torch.families import FAMILIES

        torch.set_num_threads(1)
        importlib.import_module("partwise.part.torch.runner")
        importlib.import_module(FAMILIES[ARCHITECTURE].source)

    def use_threads(self, count: int) -> None:
        """See `Kernels.use_threads`."""
        torch.set_num_threads(count)

    def read(self, working_set_bytes: int) -> TorchReading:
        """See `Kernels.read`."""
        return TorchReading(working_set_bytes)

    def multiply(
        self, precision: str, shape: tuple[int, int], num_bytes: int
    ) -> TorchMultiplication:
        """See `Kernels.multiply`."""
        assert precision in self.precisions
        return TorchMultiplication(shape, num_bytes)

    def make_runner(self, options: RunnerOptions) -> Runner:
        """See `RunnerFactory`."""
        from partwise.part.torch.runner import TorchRunner

        return TorchRunner(options)


KERNELS = TorchKernels()
