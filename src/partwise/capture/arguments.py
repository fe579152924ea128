"""Arguments of operations as JSON values, and back.

What JSON has stands for itself. Else an object of one key says what it is: ``{"node": "relu"}``
the result of that node or the input of that name, ``{"state": "fc.weight"}`` a parameter or
buffer, ``{"leaf": 0}`` a tensor of a node's result (in its structure alone), ``{"size": [1, 0]}``
a number that grows with the batch (`graph.Dim`), ``{"tuple": [..]}``, ``{"dict": {..}}``,
``{"slice": [a, b, c]}``, ``{"ellipsis": true}``, ``{"float": "-inf"}`` a number that JSON lacks,
``{"dtype": "float32"}``, ``{"device": "cpu"}``, ``{"layout": "strided"}``,
``{"memory_format": "channels_last"}``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from partwise.capture.graph import ELEMENT_BYTES
from partwise.errors import DamagedModel

Lookup = Callable[[str], Any]
MEMORY_FORMATS = ("contiguous_format", "preserve_format", "channels_last")


class Unwritable(Exception):
    """A value that no argument can be; the message says what it is."""


def write_argument(value: Any, write_other: Callable[[Any], Any]) -> Any:
    """``value`` as JSON; ``write_other`` writes nodes, and may say `Unwritable` of what it does
    not know."""
    match value:
        case None | bool() | int() | str():
            return value
        case list():
            return [write_argument(item, write_other) for item in value]
        case tuple():
            return {"tuple": [write_argument(item, write_other) for item in value]}
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": {k: write_argument(item, write_other) for k, item in value.items()}}
        case slice():
            bounds = [value.start, value.stop, value.step]
            return {"slice": write_argument(bounds, write_other)}
    written = _write_constant(value)
    return write_other(value) if written is None else written


def _write_constant(value: Any) -> Any:
    """What only torch and Python have; None of what it does not know."""
    import torch

    match value:
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case torch.dtype():
            return {"dtype": _name_dtype(value)}
        case torch.device():
            return {"device": "cpu"}
        case torch.layout():
            return {"layout": "strided"}
        case torch.memory_format():
            return {"memory_format": str(value).removeprefix("torch.")}
    return {"ellipsis": True} if value is Ellipsis else None


def _name_dtype(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in ELEMENT_BYTES:
        raise Unwritable(f"the dtype {name}")
    return name


def read_argument(value: Any, lookups: dict[str, Lookup], batch: int) -> Any:
    """The argument that ``value`` says; ``lookups`` give what nodes, states and leaves are, in a
    batch of so many rows.

    Raises:
        DamagedModel: it says nothing that is known.
    """
    if isinstance(value, list):
        return [read_argument(item, lookups, batch) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        ((tag, content),) = value.items()
        if tag in lookups:
            return lookups[tag](content)
        return _READERS[tag](content, lambda item: read_argument(item, lookups, batch), batch)
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise DamagedModel(f"no argument is {str(value)[:80]}: capture the module again") from exc


Read = Callable[[Any], Any]


def _read_size(content: Any, read: Read, batch: int) -> int:
    per_batch, constant = content
    return int(per_batch) * batch + int(constant)


def _read_slice(content: Any, read: Read, batch: int) -> slice:
    start, stop, step = map(read, content)
    return slice(start, stop, step)


def _read_dtype(content: Any, read: Read, batch: int) -> Any:
    import torch

    if content not in ELEMENT_BYTES:
        raise ValueError(content)
    return getattr(torch, content)


def _read_memory_format(content: Any, read: Read, batch: int) -> Any:
    import torch

    if content not in MEMORY_FORMATS:
        raise ValueError(content)
    return getattr(torch, content)


def _read_device(content: Any, read: Read, batch: int) -> Any:
    import torch

    return torch.device("cpu")


def _read_layout(content: Any, read: Read, batch: int) -> Any:
    import torch

    return torch.strided


_READERS: dict[str, Callable[[Any, Read, int], Any]] = {
    "size": _read_size,
    "tuple": lambda content, read, batch: tuple(map(read, content)),
    "dict": lambda content, read, batch: {key: read(item) for key, item in content.items()},
    "slice": _read_slice,
    "ellipsis": lambda content, read, batch: Ellipsis,
    "float": lambda content, read, batch: float(content),
    "dtype": _read_dtype,
    "device": _read_device,
    "layout": _read_layout,
    "memory_format": _read_memory_format,
}


def list_references(value: Any, tag: str) -> Iterator[str]:
    """What ``value`` refers to by ``tag`` ("node" or "state"), in its order, again and again."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from list_references(item, tag)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == tag and isinstance(item, str):
                yield item
            else:
                yield from list_references(item, tag)
