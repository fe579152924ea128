"""The options of `partwise plan` on a cluster and its work, and the problem that they pose."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.cli.planning.lists import read_streams, split_words
from partwise.cli.planning.strategy import STRATEGY_OPTIONS, is_given, read_strategy_options
from partwise.errors import PlanError, UsageError

if TYPE_CHECKING:
    from partwise.cluster import Cluster
    from partwise.distributor.problem import Problem
    from partwise.distributor.workload import Workload
    from partwise.model.description import Model

GOALS = ("latency", "throughput", "fewest-servers")
"""As in `distributor/contest.py`, which help must not wait for."""
CODECS = ("auto", "fp32", "bf16", "fp16", "int8")
"""As in `distributor/codecs.py`, which help must not wait for."""
ALLOWED = ("int8", "int4", "sparse")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that need ``--cluster``."""
    add = parser.add_argument_group("with --cluster").add_argument
    add("--host", metavar="FILE", type=Path, help="the machine that local-N cuts, as probed")
    add("--only", metavar="NAME,...", help="servers to use, in this order (default: all)")
    add("--strategy", metavar="S", help="how to cut (default: auto; see --list-strategies)")
    add("--goal", choices=GOALS, help="default: latency for one stream, throughput for more")
    add("--compare", action="store_true", help="all strategies and one machine, side by side")
    add(
        "--streams",
        metavar="N,...",
        help="decoded at a time, with --train microbatches a step; a plan for each (default: 1)",
    )
    add("--allow", metavar="WORD,...", help=f"for layers too large: {', '.join(ALLOWED)}")
    add("--train", action="store_true", help="training, on microbatches of --sequences")
    add("--checkpointing", action="store_true", help="training computes activations again")


def refuse_cluster_options(args: argparse.Namespace) -> None:
    """Refuse what means nothing without ``--cluster``.

    Raises:
        UsageError: the first such option.
    """
    names = ("host", "only", "strategy", "goal", "compare", "streams", "allow", "codec")
    for name in (*names, "train", "checkpointing", *(option.name for option in STRATEGY_OPTIONS)):
        if is_given(args, name):
            instead = f"--cluster local-{args.parts}" if args.parts else "--cluster FILE"
            given = "--parts" if args.parts else "--servers"
            raise UsageError(f"--{name} is for a cluster: give {instead} instead of {given}")


def pose_problem(args: argparse.Namespace, model: Model, context_tokens: int) -> Problem:
    """The problem that the options pose, for the least number of streams that they ask for.

    Raises:
        UsageError: options that mean nothing, or nothing together.
        PlanError: granules of neurons that the model does not have.
        ClusterError: no such cluster, or no server of a name of ``--only``.
    """
    from partwise.cli.planning.ids import list_overlaps
    from partwise.distributor.problem import Problem

    options, allow = read_strategy_options(args), read_allowed(args.allow)
    check_granules(model, options.get("granules", {}))
    options["goal"] = choose_goal(args)
    options["codec"] = choose_codec(args)
    workload = read_workload(args, context_tokens)
    cluster = open_servers(args)
    for line in list_overlaps(model, options.get("ids", {})):
        print(f"note: {line}", file=sys.stderr)
    return Problem(
        model=model,
        cluster=cluster,
        workload=workload,
        servers=tuple(server.name for server in cluster.servers),
        allow=allow,
        options=options,
    )


def check_granules(model: Model, granules: Mapping[str, Any]) -> None:
    """Refuse granules of kinds that the model lacks.

    Raises:
        PlanError: the first of them.
    """
    known = {kind.name for layer in model.layers for kind in layer.neuron_kinds}
    for kind in granules:
        if kind not in known:
            raise PlanError(
                f"--granules has {kind!r}: {model.name} has no kind of that name, it has"
                f" {', '.join(sorted(known))}"
            )


def choose_goal(args: argparse.Namespace) -> str:
    """What a plan shall be best at: what is asked for, else what the streams have most of.

    Raises:
        UsageError: no numbers of streams.
    """
    goal: str | None = args.goal
    return goal or ("throughput" if read_streams(args.streams)[-1] > 1 else "latency")


def choose_codec(args: argparse.Namespace) -> str:
    """What links carry; ``auto``: the distributor chooses.

    Raises:
        UsageError: training is asked for: its links carry fp32.
    """
    codec: str = args.codec or "auto"
    if args.train and codec not in ("auto", "fp32"):
        raise UsageError(f"--codec {codec} is for inference: training sends fp32, leave it out")
    return codec


def open_servers(args: argparse.Namespace) -> Cluster:
    """The cluster of the servers to use.

    Raises:
        ClusterError: it cannot be read, or has no server of a name of ``--only``.
    """
    from partwise.cli.cluster import open_cluster

    cluster = open_cluster(args.cluster, host_file=args.host)
    return cluster if args.only is None else cluster.only(split_words(args.only))


def read_workload(args: argparse.Namespace, context_tokens: int) -> Workload:
    """The workload of the least number of streams.

    Raises:
        UsageError: an unknown precision, or checkpointing without training.
    """
    from partwise.distributor.workload import ELEMENT_BYTES, Workload

    precision = "fp32" if args.precision is None else args.precision
    if precision not in ELEMENT_BYTES:
        raise UsageError(f"--precision is {precision!r}: give one of {', '.join(ELEMENT_BYTES)}")
    if args.checkpointing and not args.train:
        raise UsageError("--checkpointing is for training: give --train too, or leave it out")
    return Workload(
        streams=read_streams(args.streams)[0],
        context_tokens=context_tokens,
        sequences=args.sequences,
        precision=precision,
        is_training=args.train,
        has_checkpointing=args.checkpointing,
    )


def read_allowed(text: str | None) -> frozenset[str]:
    """What may be done to layers that are too large.

    Raises:
        UsageError: something else.
    """
    words = [] if text is None else split_words(text)
    for word in words:
        if word not in ALLOWED:
            raise UsageError(f"--allow has {word!r}: it may have {', '.join(ALLOWED)}")
    return frozenset(words)
