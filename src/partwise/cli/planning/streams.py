"""Plans for several numbers of streams, and where they change over."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from partwise.cli.planning.answer import PlanAnswer, answer, write_files
from partwise.cli.planning.document import describe_question
from partwise.cli.planning.table import (
    render_figures,
    render_heading,
    render_outlook,
    render_planned,
)
from partwise.cli.planning.words import count, format_figure
from partwise.errors import Infeasible

if TYPE_CHECKING:
    from partwise.distributor.adaptive import AdaptivePlan
    from partwise.distributor.plan import Plan
    from partwise.distributor.problem import Problem


def plan_streams(
    args: argparse.Namespace, problem: Problem, sizes: Sequence[int], strategy: str
) -> None:
    """Print the plans of a strategy for these numbers of streams; write the one for all.

    Raises:
        PlanError: the strategy makes no plan for one of them.
        Infeasible: a file is asked for, and no plan fits all of them.
    """
    from partwise.distributor.adaptive import plan_adaptive
    from partwise.distributor.strategies import STRATEGIES

    adaptive = plan_adaptive(problem, STRATEGIES[strategy], sizes)
    question = describe_question(problem, args.cluster)
    answers = [answer_at(problem, strategy, adaptive.plan_at(size), size) for size in sizes]
    whole = []
    if adaptive.overall is not None:
        whole = [answer_at(problem, strategy, adaptive.overall, size) for size in sizes]
    write_overall(args, question, whole)
    if args.json:
        document = question | {
            "plans": [one.document for one in answers],
            "change_over_streams": list(adaptive.change_overs),
            "one_plan_for_all": [one.document for one in whole],
        }
        print(json.dumps(document, indent=1))
    else:
        texts = (*render_plans(question, answers), render_spans(adaptive, answers, whole))
        print("\n\n\n".join(texts))


def answer_at(problem: Problem, strategy: str, plan: Plan, streams: int) -> PlanAnswer:
    """What is to be said of the ``plan`` of a strategy for so many streams."""
    from partwise.distributor.compare import evaluate

    asked = replace(problem, workload=replace(problem.workload, streams=streams))
    return answer(asked, strategy, evaluate(asked, plan))


def write_overall(
    args: argparse.Namespace, question: dict[str, Any], whole: Sequence[PlanAnswer]
) -> None:
    """Write the one plan for all numbers of streams, with what it does for the most.

    Raises:
        Infeasible: a file is asked for, and no plan fits all of them.
    """
    if args.out is None and args.svg is None:
        return
    if not whole:
        raise Infeasible(
            f"no plan fits all of {args.streams} streams: give --streams one number with --out"
            " and --svg"
        )
    last = whole[-1]
    heading = render_heading(question, last.document)
    write_files(args, last.plan, last.picture, heading, render_outlook(question, last.document))
    print("note: written is the one plan for all numbers of streams", file=sys.stderr)


def render_plans(question: dict[str, Any], answers: Sequence[PlanAnswer]) -> Iterator[str]:
    """Each plan once, with what it does for each number of streams that it is best for."""
    for plan in dict.fromkeys(one.plan for one in answers):
        first, *others = (one for one in answers if one.plan == plan)
        # One stream alone is served alike whatever the number of streams.
        figures = [render_figures(question, one.document, ("throughput",)) for one in others]
        yield "\n".join((render_planned(question, first), *itertools.chain(*figures)))


def render_spans(
    adaptive: AdaptivePlan, answers: Sequence[PlanAnswer], whole: Sequence[PlanAnswer]
) -> str:
    """Where the plans change over, and what the one for all of them does."""
    if not adaptive.change_overs:
        return "one plan is best for all of them"
    made_for = {one.plan: one.streams for one in reversed(answers)}
    lines = [
        f"from {count(span.start, 'stream')} on: the plan for {made_for[span.plan]}"
        for span in adaptive.spans[1:]
    ]
    if not whole:
        return "\n".join((*lines, "without changing over: no plan fits all of them"))
    rates = (
        f"{format_figure(one.document['expected']['tokens_per_s'])} at {one.streams}"
        for one in whole
    )
    which = f"the plan for {made_for[whole[0].plan]}" if whole[0].plan in made_for else "another"
    return "\n".join((*lines, f"without changing over: {which}, tokens/s {', '.join(rates)}"))
