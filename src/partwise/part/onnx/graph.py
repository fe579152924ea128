"""An ONNX graph that is written as it is built: nodes in memory, weights to a file.

Only the tensor that is being added is in memory. What the nodes compute is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

ALIGNMENT_BYTES = 4096
"""Of each large tensor in the weights' file: a page, so that none is mapped with another's."""
INLINE_BYTES = 1024
"""Tensors up to here lie in the graph's own file."""
OPSET, MICROSOFT = 17, "com.microsoft"
_DTYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64,
           "int32": TensorProto.INT32}  # fmt: skip

Shape = Sequence[int | str]


class HashedFile:
    """A file that is written from its start to its end, and the sha256 of what was written."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._hasher = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append ``data``."""
        self._file.write(data)
        self._hasher.update(data)
        self.num_bytes += len(data)

    def align(self) -> int:
        """Fill up to the next multiple of ALIGNMENT_BYTES; returns where that is."""
        self.write(bytes(-self.num_bytes % ALIGNMENT_BYTES))
        return self.num_bytes

    @property
    def sha256(self) -> str:
        return self._hasher.hexdigest()

    def fileno(self) -> int:
        """To sync it, once all was written."""
        self._file.flush()
        return self._file.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


class GraphWriter:
    """Collects nodes; appends each weight to ``weights``, which lies beside the graph's file as
    ``weights_name``."""

    def __init__(self, weights: HashedFile, weights_name: str) -> None:
        self._weights = weights
        self._weights_name = weights_name
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._num_names = 0

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> str:
        """Declare an input; returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, _DTYPES[dtype], list(shape)))
        return name

    def output(self, name: str, shape: Shape) -> None:
        """Declare that the fp32 value ``name`` is an output."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Write a constant; returns its name."""
        return self.use(self.store(name, values))

    def store(self, name: str, values: NDArray[Any]) -> TensorProto:
        """Write a constant that any graph with the same weights' file may `use`."""
        data = np.ascontiguousarray(values)
        tensor = TensorProto(name=name, data_type=_DTYPES[str(data.dtype)], dims=data.shape)
        if data.nbytes <= INLINE_BYTES:
            tensor.raw_data = data.tobytes()
        else:
            offset = self._weights.align()
            self._weights.write(data.data.cast("B"))
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": self._weights_name, "offset": offset, "length": data.nbytes}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
        return tensor

    def use(self, tensor: TensorProto) -> str:
        """Declare a constant that lies in the weights' file; returns its name."""
        self._initializers.append(tensor)
        name: str = tensor.name
        return name

    def node(
        self, kind: str, inputs: Iterable[str], *, domain: str = "", outputs: int = 1, **attrs: Any
    ) -> list[str]:
        """Add a node with unnamed results; returns what they are called."""
        self._num_names += 1
        names = [f"{kind}_{self._num_names}_{i}" for i in range(outputs)]
        self.named_node(kind, inputs, names, domain=domain, **attrs)
        return names

    def named_node(
        self, kind: str, inputs: Iterable[str], outputs: Sequence[str], *, domain: str = "",
        **attrs: Any,
    ) -> None:  # fmt: skip
        """Add a node whose results are ``outputs``; an empty name leaves one out."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(kind, list(inputs), list(outputs), name=name, domain=domain, **attrs)
        )

    def encode(self, producer: str) -> bytes:
        """The graph, as ONNX Runtime reads it."""
        graph = helper.make_graph(
            self._nodes, "part", self._inputs, self._outputs, self._initializers
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, producer_name=producer, opset_imports=opsets, ir_version=10
        )
        encoded: bytes = model.SerializeToString()
        return encoded
