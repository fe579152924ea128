"""`partwise compress`: new versions of a model's weights, smaller, and what each costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from partwise.cli.version import add_version, check_version
from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.cli.compressing.steps import Step
    from partwise.compress.recipe import Recipe

NAME = "compress"
HELP = "write a smaller version of a model's weights to its store, and measure what it costs"
EXAMPLES = (
    "partwise compress models/SmolLM2-135M-Instruct --int4 --method gptq",
    "partwise compress models/SmolLM2-135M-Instruct --ladder --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise compress``."""
    add = parser.add_argument
    add("model", metavar="MODEL", type=Path, help="a Hugging Face model directory")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--int8", action="store_true", help="8 bits a weight")
    precision.add_argument("--int4", action="store_true", help="4 bits a weight")
    precision.add_argument(
        "--ladder",
        action="store_true",
        help="a version for each step that plans take where layers must shrink: int8, int4, fewer"
        " MLP units",
    )
    add(
        "--sparsity",
        metavar="SHARE|2:4",
        help="remove this share of each block's MLP units (0 to 0.9); 2:4: two of four inputs zero",
    )
    add("--block", metavar="N", type=int, help="inputs that share a scale (default: 32)")
    add("--asymmetric", action="store_true", help="a zero point for each block")
    add(
        "--method",
        choices=("rtn", "search", "gptq", "grid"),
        help="round to nearest (rtn, the default of int4), with the best of some scales (search,"
        " that of int8), calibrated (gptq), or on the grid that the weights lie on already (exact"
        " where there is one)",
    )
    add("--calibration", metavar="FILE", type=Path, help="text (default: what Python ships with)")
    add("--threads", metavar="T", type=int, help="threads (default: one a processor)")
    add_version(parser)
    add("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Make the versions, with progress on stderr, and print the report: of a run that fails or
    is interrupted, that of the steps that were finished."""
    check_version(args.model_version)
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads is {args.threads}, it must be at least 1: give 1 or more")
    recipes = choose_recipes(args)
    from partwise.cli.compressing.buffers import describe_buffers
    from partwise.cli.compressing.report import describe, name_source, render
    from partwise.cli.compressing.steps import Steps
    from partwise.cli.format import format_json
    from partwise.cli.progress import Progress
    from partwise.compress.text import WINDOW_TOKENS, read_text, split_text
    from partwise.engine.text import Text
    from partwise.store import open_version

    path = args.model.resolve()
    version = args.model_version or 0
    taken: list[Step] = []
    with Progress() as progress:
        if args.threads is not None:
            import torch

            torch.set_num_threads(args.threads)
        source, text = read_text(args.calibration)
        # No window is longer than what the model was made for.
        window_tokens = min(WINDOW_TOKENS, open_version(path, version).context_tokens)
        texts = split_text(source, text, Text(path).encode, window_tokens=window_tokens)
        steps = Steps(path, version, texts, progress)
        failure = steps.run_into(taken, recipes)
    if failure is not None and not taken:
        raise failure
    buffers = describe_buffers(steps.model, steps.config) if failure is None else []
    document = describe(
        steps.model, name_source(path), texts, taken, buffers, is_complete=failure is None
    )
    print(format_json(document) if args.json else render(document))
    if failure is not None:
        sys.stdout.flush()
        raise failure
    whole = [step.made.manifest for step in taken if not step.accuracy.is_broken]
    if whole:
        bits = [stored.bits for stored in whole[-1].quantized.values()]
        options = f"--model-version {whole[-1].version}" + (
            f" --precision int{min(bits)}" if bits else ""
        )
        print(f"use it: partwise generate {args.model} PROMPT {options}", file=sys.stderr)
    return 0


def choose_recipes(args: argparse.Namespace) -> list[Recipe]:
    """What the options ask for, one recipe a version.

    Raises:
        UsageError: options that contradict each other, or ask for nothing.
        CompressionError: numbers out of range.
    """
    from partwise.compress.recipe import DEFAULT_BLOCK, Recipe, climb

    if args.block is not None and args.block < 1:
        raise UsageError(f"--block is {args.block}, it must be at least 16: give 16, 32 or 64")
    if not (args.int8 or args.int4 or args.ladder or args.sparsity):
        raise UsageError("nothing to do: give --int8, --int4, --ladder or --sparsity")
    if args.ladder and args.sparsity:
        raise UsageError("--ladder has sparsities of its own: leave --sparsity out")
    has_bits = args.int8 or args.int4 or args.ladder
    if not has_bits and (args.block or args.asymmetric or args.method):
        raise UsageError("--block, --asymmetric and --method are for --int8, --int4 and --ladder")
    bits = 4 if args.int4 or args.ladder else 8 if args.int8 else None
    is_two_four = args.sparsity == "2:4"
    recipe = Recipe(
        bits=bits,
        block=args.block or DEFAULT_BLOCK,
        is_symmetric=not args.asymmetric,
        method=args.method,
        mlp_sparsity=0.0 if is_two_four else read_share(args.sparsity),
        is_two_four=is_two_four,
    )
    return climb(recipe) if args.ladder else [recipe]


def read_share(given: str | None) -> float:
    """The share of MLP units to remove.

    Raises:
        UsageError: not a number, or out of range.
    """
    from partwise.distributor.plan import MAX_MLP_SPARSITY

    advice = f"give a share from 0 to {MAX_MLP_SPARSITY}, such as 0.5, or 2:4"
    try:
        share = float(given or 0)
    except ValueError as exc:
        raise UsageError(f"--sparsity is {given!r}: {advice}") from exc
    if not 0 <= share <= MAX_MLP_SPARSITY:
        raise UsageError(
            f"--sparsity is {given}, outside 0 to {MAX_MLP_SPARSITY}, the share of MLP units to"
            f" remove: {advice}"
        )
    return share
