"""Plans for a cluster: by one strategy, or by all of them side by side."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from partwise.cli.planning.lists import read_streams
from partwise.cli.planning.problem import choose_goal, pose_problem
from partwise.cli.planning.strategy import choose_strategy, split_strategies
from partwise.errors import UsageError

if TYPE_CHECKING:
    from partwise.distributor.problem import Problem
    from partwise.model.description import Model


def plan_cluster(args: argparse.Namespace, model: Model, context_tokens: int) -> None:
    """Print what is planned for a cluster, and write it where asked.

    Raises:
        UsageError: options that mean nothing together.
        ClusterError: no such cluster.
        PlanError: the strategy makes no plan.
    """
    check_options(args)
    problem = pose_problem(args, model, context_tokens)
    if args.compare:
        compare_strategies(args, problem)
    elif len(read_streams(args.streams)) == 1:
        plan_once(args, problem)
    else:
        from partwise.cli.planning.streams import plan_streams

        plan_streams(args, problem, read_streams(args.streams), choose_strategy(args))


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: which, and what to give instead.
    """
    if args.compare:
        for option in ("strategy", "out", "svg"):
            if getattr(args, option) is not None:
                raise UsageError(f"--compare tries all strategies: leave out --{option}")
    elif args.goal is not None and choose_strategy(args) != "auto":
        raise UsageError("--goal is for --strategy auto and --compare: give one, or leave it out")


def plan_once(args: argparse.Namespace, problem: Problem) -> None:
    """The plan of the strategy asked for, for one number of streams."""
    from partwise.cli.format import format_json
    from partwise.cli.planning.answer import answer, write_files
    from partwise.cli.planning.document import describe_question
    from partwise.cli.planning.table import render_heading, render_outlook, render_planned
    from partwise.distributor.compare import plan_with

    question = describe_question(problem, args)
    strategy = choose_strategy(args)
    one = answer(problem, strategy, plan_with(problem, strategy))
    heading = render_heading(question, one.document)
    write_files(args, one.plan, one.picture, heading, render_outlook(question, one.document))
    if args.json:
        print(format_json(question | {"plans": [one.document]}))
    else:
        print(render_planned(question, one))


def compare_strategies(args: argparse.Namespace, problem: Problem) -> None:
    """A comparison for each number of streams, of the strategies that have what they need."""
    from partwise.cli.format import format_json
    from partwise.cli.planning.comparison import render_comparison
    from partwise.cli.planning.document import describe_comparison, describe_question
    from partwise.distributor.compare import compare

    goal = choose_goal(args)
    names, missing = split_strategies(args)
    question = describe_question(problem, args)
    documents = []
    for streams in read_streams(args.streams):
        asked = replace(problem, workload=replace(problem.workload, streams=streams))
        documents.append(describe_comparison(asked, goal, compare(asked, goal, names)))
    question["not_tried"] = [
        {"strategy": name, "obstacle": f"needs --{option.name} {option.needed}"}
        for option in missing
        for name in option.strategies
    ]
    if args.json:
        print(format_json(question | {"comparisons": documents}))
    else:
        idle = [f"{option.strategies[0]} (--{option.name})" for option in missing]
        print("\n\n\n".join(render_comparison(question, one, idle) for one in documents))
