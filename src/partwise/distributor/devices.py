"""On which device a server computes, and which runners compute there.

A device belongs to its server, not to the plan: the same plan runs on any of them. Whether it is
there only the server can say.
"""

from __future__ import annotations

import re

from partwise.errors import PlanError, UsageError

CPU = "cpu"
DEVICE_RUNNER = "torch"
"""Computes on other devices than the CPU."""


def check_device(device: str) -> str:
    """``device`` itself.

    Raises:
        UsageError: it is no name of a device.
    """
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9]\d{0,3}))?", device, re.ASCII):
        raise UsageError(f"the device {device!r} is not known: give cpu, cuda or cuda:N")
    return device


def check_runner_on(runner: str, device: str, what: str) -> None:
    """Refuse a runner that does not compute on ``device``; ``what`` was to be computed.

    Raises:
        PlanError: says what would work.
    """
    if device != CPU and runner != DEVICE_RUNNER:
        raise PlanError(
            f"{what} is for the {runner} runner, which computes on CPUs alone, and the device is"
            f" {device}: take the {DEVICE_RUNNER} runner, in fp32 or bf16, or --device {CPU}"
        )
