"""`partwise plan`: which server would hold what, from file headers alone.

Servers of this machine (``--parts``) or at addresses (``--servers``) are taken as equal, and
layers balanced by the bytes that a token reads, plus a constant for each block. With
``--cluster`` they are what it says, a strategy cuts, and the plan says what it expects and
whether it beats one machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from partwise.cli.computing import add_precision, add_runner, describe_choice, read_wish
from partwise.cli.planning.lists import refuse_more
from partwise.cli.planning.problem import CODECS, add_cluster_options, refuse_cluster_options
from partwise.cli.planning.strategy import add_strategy_options
from partwise.cli.version import add_version, open_chosen
from partwise.errors import PlanError, UsageError

if TYPE_CHECKING:
    from partwise.model.description import Model

NAME = "plan"
HELP = "cut a model into parts for servers, and say what to expect of them; reads no weights"
EXAMPLES = (
    "partwise plan models/SmolLM2-135M-Instruct --parts 3",
    "partwise plan models/SmolLM2-135M-Instruct --cluster home --streams 8 --compare",
)

DEFAULT_CONTEXT_TOKENS = 4096
"""Assumed where none is given: models promise contexts far longer than most are used with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise plan``."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a Hugging Face model directory")
    servers = parser.add_mutually_exclusive_group(required=True)
    add = servers.add_argument
    add("--parts", metavar="N", type=int, help="how many equal servers of this machine")
    add("--servers", metavar="HOST:PORT,...", help="equal servers that listen, in order")
    add("--cluster", metavar="FILE|PRESET", help="servers as `partwise cluster show` shows them")
    add = parser.add_argument
    add("--out", metavar="FILE", type=Path, help="write the plan to this file")
    add("--svg", metavar="FILE", type=Path, help="draw the plan to this file")
    add("--json", action="store_true", help="print one JSON document")
    add(
        "--context",
        metavar="TOKENS",
        type=int,
        help="tokens of each sequence for the KV cache (default: the model's context,"
        f" {DEFAULT_CONTEXT_TOKENS} at most)",
    )
    add("--codec", choices=CODECS, help="of links (default: auto, with --cluster what pays)")
    add("--sequences", metavar="S", type=int, default=1, help="sequences at a time (default: 1)")
    add_version(parser)
    add_precision(parser)
    add_runner(parser)
    add_cluster_options(parser)
    add_strategy_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print a plan, and write it where asked."""
    for option in ("parts", "context", "sequences"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UsageError(f"--{option} is {value}, it must be at least 1: give 1 or more")
    refuse_more("sequences", args.sequences)
    if args.cluster is None:
        refuse_cluster_options(args)
    model = open_chosen(args)
    context_tokens = choose_context(args.context, model)
    if args.cluster is None:
        plan_equal(args, model, context_tokens)
    else:
        from partwise.cli.computing import refuse_runner
        from partwise.cli.planning.cluster import plan_cluster

        refuse_runner(args)
        plan_cluster(args, model, context_tokens)
    return 0


def choose_context(asked_tokens: int | None, model: Model) -> int:
    """The tokens of each sequence that are planned for.

    Raises:
        UsageError: more than the model reads.
    """
    context_tokens = asked_tokens or min(model.context_tokens, DEFAULT_CONTEXT_TOKENS)
    if context_tokens > model.context_tokens:
        raise UsageError(
            f"--context is {context_tokens}, {model.name} reads {model.context_tokens} tokens:"
            f" give {model.context_tokens} or fewer"
        )
    return context_tokens


def plan_equal(args: argparse.Namespace, model: Model, context_tokens: int) -> None:
    """Print and write the plan for servers that are taken as equal."""
    from partwise.cli.format import format_json
    from partwise.cli.planning.answer import write_files
    from partwise.cli.planning.equal import describe_bytes, render_bytes
    from partwise.distributor import balance_layers, choose_runner
    from partwise.distributor.codecs import with_codec
    from partwise.distributor.picture import arrange

    refuse_more_parts(args.parts, model)
    choice = choose_runner(model, read_wish(args))
    plan = balance_layers(
        model, name_servers(args), precision=choice.precision, runner=choice.runner
    )
    if args.codec not in (None, "auto", "fp32"):
        plan = with_codec(plan, args.codec)
        print(f"note: links carry {args.codec}, which changes results", file=sys.stderr)
    question = {
        "context_tokens": context_tokens,
        "is_context_assumed": args.context is None,
        "num_sequences": args.sequences,
    }
    document = describe_bytes(plan, model, question)
    document |= {"runner": choice.runner, "runner_reason": choice.reason}
    heading = f"{model.name}: strategy {plan.strategy}, {len(plan.parts)} equal servers"
    write_files(args, plan, arrange(plan, model), heading, [])
    text = f"{render_bytes(document)}\n\n{describe_choice(plan, choice.reason)}"
    print(format_json(document) if args.json else text)


def refuse_more_parts(num_parts: int | None, model: Model) -> None:
    """Refuse more parts than layers while they are a number: to name them takes memory.

    Raises:
        PlanError: they are more.
    """
    num_layers = len(model.layers)
    if num_parts is not None and num_parts > num_layers:
        raise PlanError(
            f"{num_parts} parts are more than the {num_layers} layers of {model.name}: ask for"
            f" {num_layers} parts or fewer"
        )


def name_servers(args: argparse.Namespace) -> list[str]:
    """What the plan calls its servers, as `partwise generate` will with the same options.

    Raises:
        UsageError: --servers is no list of addresses that reach each other.
    """
    if args.servers is None:
        return [f"local-{i}" for i in range(args.parts)]
    from partwise.engine.prepared import read_addresses

    return list(read_addresses(args.servers.split(",")))
