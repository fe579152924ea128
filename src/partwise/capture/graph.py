"""The graph of a captured module: operations from a fixed table, in the order of computing.

It is data: msgspec structs whose JSON is validated when it is read. Arguments of operations are
JSON values as `arguments.py` writes them. Knows no torch.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from partwise.errors import DamagedModel

GRAPH_FORMAT = 1
Kind = Literal["module", "function", "method", "aten"]

ELEMENT_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""The dtypes of tensors that are captured."""


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the graph's structs."""


class Dim(Value, frozen=True, array_like=True, kw_only=False):
    """A size that may grow with the batch: ``per_batch`` times its rows, plus ``constant``."""

    per_batch: int
    constant: int

    def at(self, batch: int) -> int:
        """The size in a batch of so many rows."""
        return self.per_batch * batch + self.constant


class TensorSpec(Value, frozen=True, kw_only=True):
    """A tensor. ``order`` are its axes as they lie in memory, the slowest first: a tensor that
    travels arrives laid out as it was, for the same bits."""

    shape: tuple[Dim, ...]
    dtype: str
    order: tuple[int, ...]

    def sizes(self, batch: int) -> tuple[int, ...]:
        """Its shape in a batch of so many rows."""
        return tuple(dim.at(batch) for dim in self.shape)

    def num_elements(self, batch: int) -> int:
        """How many elements it has in a batch of so many rows."""
        return math.prod(self.sizes(batch))

    def num_bytes(self, batch: int) -> int:
        """Bytes of its elements in a batch of so many rows."""
        return self.num_elements(batch) * ELEMENT_BYTES[self.dtype]


class State(Value, frozen=True, kw_only=True):
    """A parameter or buffer, stored under its name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_parameter: bool


class Input(Value, frozen=True, kw_only=True):
    """A tensor that is given with each call, as the module's ``argument``."""

    name: str
    argument: str
    spec: TensorSpec


class Node(Value, frozen=True, kw_only=True):
    """One operation.

    ``target`` is its name in the table of its ``kind``; ``options`` are the values that a module
    is constructed with, ``states`` the parameters and buffers of a module by the names it has for
    them. ``path`` is where people find it. Its result is made of the tensors ``leaves``, joined
    as ``structure`` says (`arguments.py`).
    """

    name: str
    kind: Kind
    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    states: dict[str, str] = {}
    path: str = ""
    leaves: tuple[TensorSpec, ...]
    structure: Any

    @property
    def spec(self) -> TensorSpec | None:
        """Its result, where that is one tensor."""
        return self.leaves[0] if self.structure == {"leaf": 0} else None


class Graph(Value, frozen=True, kw_only=True):
    """A captured module. ``fixed_batch``: the only number of rows that it takes, None if any.
    ``constants`` are the arguments that are no tensors, as they were written when it was captured:
    it computes with these. ``output`` are the results as an argument."""

    format: int = GRAPH_FORMAT
    name: str
    fixed_batch: int | None
    inputs: tuple[Input, ...]
    constants: dict[str, str] = {}
    nodes: tuple[Node, ...]
    output: Any
    states: tuple[State, ...]


def encode_graph(graph: Graph) -> bytes:
    """The graph as JSON, the same bytes for the same graph."""
    return msgspec.json.format(msgspec.json.encode(graph), indent=1) + b"\n"


def decode_graph(data: bytes) -> Graph:
    """A graph from its JSON; what it names is checked when it is opened (`files.py`).

    Raises:
        DamagedModel: not JSON, a field missing or of the wrong type, or a format of another
            partwise.
    """
    try:
        graph = msgspec.json.decode(data, type=Graph)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise DamagedModel(f"not a captured module: {exc}; capture it again") from exc
    if graph.format != GRAPH_FORMAT:
        raise DamagedModel(
            f"the captured module has format {graph.format}, this partwise reads format"
            f" {GRAPH_FORMAT}: capture it again"
        )
    return graph
