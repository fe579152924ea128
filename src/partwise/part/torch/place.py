"""Where a part's tensors are, and in which format: the device of its server, the precision of the
plan. What comes from other parts and goes to them is float32 on the CPU everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from partwise.errors import LaunchError
from partwise.part.owned import Floats

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A device, and the format of floating-point numbers on it."""

    device: torch.device
    dtype: torch.dtype

    @property
    def is_plain(self) -> bool:
        """Whether tensors are here as they travel: then nothing is ever copied."""
        return self.device.type == "cpu" and self.dtype == torch.float32

    def put(self, values: Tensor) -> Tensor:
        """``values`` here; whole numbers keep their format."""
        if self.is_plain:
            return values
        dtype = self.dtype if values.is_floating_point() else values.dtype
        return values.to(self.device, dtype)

    def empty(self, *shape: int) -> Tensor:
        """Room for floating-point numbers."""
        return torch.empty(*shape, dtype=self.dtype, device=self.device)


PLAIN = Place(device=torch.device("cpu"), dtype=torch.float32)


def to_array(values: Tensor) -> Floats:
    """``values`` as they travel: float32; without a copy where they are plain already."""
    if values.dtype != torch.float32 or not values.is_cpu:
        values = values.to("cpu", torch.float32)
    array: Floats = values.numpy()
    return array


def find_device(name: str) -> torch.device:
    """The device of this machine that is called ``name``: cpu, cuda or cuda:N. Not before a fork:
    CUDA does not survive one.

    Raises:
        LaunchError: it is not there; says what is.
    """
    device = torch.device(name)
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if not count:
        lack = "a CUDA build of torch" if torch.version.cuda is None else "a CUDA driver"
        raise LaunchError(
            f"{name} is not there: torch {torch.__version__} has no CUDA devices: give --device"
            f" cpu, or install {lack}"
        )
    index = device.index or 0
    if index >= count:
        there = ", ".join(f"cuda:{i}" for i in range(count))
        raise LaunchError(
            f"{name} is not there: the CUDA devices of this machine are {there}: give one of"
            " them, or --device cpu"
        )
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> str:
    """A CUDA device, for people."""
    return f"{device} ({torch.cuda.get_device_name(device)})"
