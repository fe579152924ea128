"""The onnx runner's kernels, to be measured: products with rounded weights, as its graphs hold
them, and a plain sum for what memory and caches can do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime

from partwise.distributor.workload import ELEMENT_BYTES
from partwise.part.onnx.linear import ACCURACY_LEVEL
from partwise.part.onnx.rounding import Rounding
from partwise.part.onnx.session import make_options
from partwise.part.runner import Runner, RunnerOptions
from partwise.store import aligned_empty

LEAST_READ_BYTES = 16 << 20
"""Of a run: it takes 80 us and more, a call 5 us."""


class OnnxReading:
    """See `Reading`."""

    def __init__(self, working_set_bytes: int) -> None:
        self._ones = np.ones(max(1, working_set_bytes // 4), np.float32)
        self._times = max(1, LEAST_READ_BYTES // self._ones.nbytes)
        self.num_bytes = self._times * self._ones.nbytes

    def run(self) -> None:
        """See `Reading.run`."""
        for _ in range(self._times):
            self._ones.sum()


class OnnxMultiplication:
    """See `Multiplication`. Every number is the same: no kernel looks at values.

    ``num_bytes`` are those that the planner counts for a weight, whatever its scales take.
    """

    def __init__(
        self, rounding: Rounding, shape: tuple[int, int], num_bytes: int, threads: int
    ) -> None:
        outputs, inputs = self._shape = shape
        element_bytes = ELEMENT_BYTES[rounding.precision]
        self.num_matrices = max(1, int(num_bytes / (element_bytes * outputs * inputs)))
        self.macs_per_token = self.num_matrices * outputs * inputs
        self.num_bytes = int(self.macs_per_token * element_bytes)
        self._session = _open(rounding, shape, self.num_matrices, threads)
        self._bindings: dict[int, Any] = {}

    def run(self, tokens: int) -> None:
        """See `Multiplication.run`."""
        if tokens not in self._bindings:
            self._bindings[tokens] = self._bind(tokens)
        self._session.run_with_iobinding(self._bindings[tokens])

    def _bind(self, tokens: int) -> Any:
        outputs, inputs = self._shape
        value_of = onnxruntime.OrtValue.ortvalue_from_numpy
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("hidden", value_of(np.ones((tokens, inputs), np.float32)))
        # All write to one place, as a runner's passes use their buffers again.
        out = value_of(aligned_empty((tokens, outputs), np.float32))
        for index in range(self.num_matrices):
            binding.bind_ortvalue_output(f"out_{index}", out)
        return binding


def _open(rounding: Rounding, shape: tuple[int, int], num_matrices: int, threads: int) -> Any:
    """A session of products with the same input. ONNX Runtime packs each one's own copy of the
    weights, which are one array here."""
    from onnx import TensorProto, helper

    outputs, inputs = shape
    blocks = -(-inputs // rounding.block)
    packed = np.full((outputs, blocks, rounding.block * rounding.bits // 8), 17, np.uint8)
    nodes, results, weights, values = [], [], [], []
    for index in range(num_matrices):
        nodes.append(
            helper.make_node(
                "MatMulNBits", ["hidden", f"packed_{index}", f"scales_{index}"], [f"out_{index}"],
                domain="com.microsoft", N=outputs, K=inputs, bits=rounding.bits,
                block_size=rounding.block, accuracy_level=ACCURACY_LEVEL,
            )
        )  # fmt: skip
        # Of nodes with equal weights one would be computed.
        scales = np.full((outputs, blocks), index + 1, np.float32)
        results.append(helper.make_tensor_value_info(f"out_{index}", TensorProto.FLOAT, None))
        for name, array in ((f"packed_{index}", packed), (f"scales_{index}", scales)):
            weights.append(_declare(name, array))
            values.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
    hidden = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["tokens", inputs])
    graph = helper.make_graph(nodes, "products", [hidden], results, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = make_options(threads)
    options.add_external_initializers([weight.name for weight in weights], values)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _declare(name: str, array: np.ndarray[Any, Any]) -> Any:
    """A weight whose values are handed over by themselves."""
    from onnx import TensorProto

    kind = TensorProto.UINT8 if array.dtype == np.uint8 else TensorProto.FLOAT
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "memory"), ("offset", 0), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


class OnnxKernels:
    """See `Kernels`."""

    precisions = ("int8", "int4")

    def __init__(self) -> None:
        self._threads = 1

    def preload(self) -> None:
        """See `Kernels.preload`; the module's own imports are all of it but onnx."""
        import onnx  # noqa: F401

    def use_threads(self, count: int) -> None:
        """See `Kernels.use_threads`."""
        self._threads = count

    def read(self, working_set_bytes: int) -> OnnxReading:
        """See `Kernels.read`."""
        return OnnxReading(working_set_bytes)

    def multiply(
        self, precision: str, shape: tuple[int, int], num_bytes: int
    ) -> OnnxMultiplication:
        """See `Kernels.multiply`."""
        assert precision in self.precisions
        return OnnxMultiplication(Rounding(precision=precision), shape, num_bytes, self._threads)

    def make_runner(self, options: RunnerOptions) -> Runner:
        """See `RunnerFactory`."""
        from partwise.part.onnx.runner import OnnxRunner

        return OnnxRunner(options)


KERNELS = OnnxKernels()
