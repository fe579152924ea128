"""The options that say how parts are computed, and what is said of the choice."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.distributor import Plan, RunnerWish

PRECISIONS = ("fp32", "bf16", "int8", "int4")
RUNNERS = ("torch", "onnx")
"""As in `distributor/runners.py`, which help must not wait for."""
CPU = "cpu"
"""As in `distributor/devices.py`."""


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Declare ``--runner``."""
    parser.add_argument(
        "--runner",
        choices=RUNNERS,
        help="what computes the parts (default: onnx where it covers the model, for it is faster)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Declare ``--precision``."""
    known = ", ".join(PRECISIONS)
    parser.add_argument("--precision", metavar="P", help=f"of the weights: {known} (default: fp32)")


def add_device(parser: argparse.ArgumentParser, of: str) -> None:
    """Declare ``--device``, on which servers compute: those ``of`` something."""
    parser.add_argument(
        "--device",
        metavar="D",
        default=CPU,
        help=f"of {of}: cpu, or for the torch runner cuda or cuda:N (default: cpu)",
    )


def read_wish(
    args: argparse.Namespace, *, is_deterministic: bool = False, device: str = CPU
) -> RunnerWish:
    """What the options ask of the runner.

    Raises:
        UsageError: a precision that no runner has.
    """
    from partwise.distributor import RunnerWish

    if args.precision not in (None, *PRECISIONS):
        raise UsageError(
            f"--precision is {args.precision!r}, which no runner computes: give one of"
            f" {', '.join(PRECISIONS)}"
        )
    return RunnerWish(
        precision=args.precision,
        runner=args.runner,
        is_deterministic=is_deterministic,
        device=device,
    )


def refuse_runner(args: argparse.Namespace) -> None:
    """With a cluster the rates of its hosts decide, which are of one runner at each precision.

    Raises:
        UsageError: another one is asked for.
    """
    from partwise.distributor.runners import runner_for

    runner = runner_for(args.precision or "fp32")
    if args.runner not in (None, runner):
        raise UsageError(
            f"--runner {args.runner} is asked for and the rates of clusters for"
            f" {args.precision or 'fp32'} are of the {runner} runner: leave out --runner or"
            " --cluster"
        )


def describe_choice(plan: Plan, why: str) -> str:
    """Which runner computes the parts, and why."""
    chosen = sorted({(part.runner, part.precision) for part in plan.parts})
    what = " and ".join(f"{runner} in {precision}" for runner, precision in chosen)
    return f"runner: {what}{', because ' + why if why else ', as planned'}"
