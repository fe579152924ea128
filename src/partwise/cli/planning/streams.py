"""Plans for several numbers of streams, and where they change over."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from partwise.cli.format import format_json
from partwise.cli.planning.answer import PlanAnswer, answer, write_files
from partwise.cli.planning.document import describe_question
from partwise.cli.planning.table import (
    render_figures,
    render_heading,
    render_outlook,
    render_planned,
)
from partwise.cli.planning.words import count, format_figure, name_streams
from partwise.errors import Infeasible

if TYPE_CHECKING:
    from partwise.distributor.adaptive import AdaptivePlan
    from partwise.distributor.plan import Plan
    from partwise.distributor.problem import Problem, Strategy


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

    noted = NotedStrategy(strategy, STRATEGIES[strategy])
    adaptive = plan_adaptive(problem, noted, sizes)
    question = describe_question(problem, args)
    answers = [answer_at(problem, noted, adaptive.plan_at(size), size) for size in sizes]
    whole = []
    if adaptive.overall is not None:
        whole = [answer_at(problem, noted, adaptive.overall, size) for size in sizes]
    write_overall(args, question, whole)
    if args.json:
        document = question | {
            "plans": [one.document for one in answers],
            "change_over_streams": list(adaptive.change_overs),
            "one_plan_for_all": [one.document for one in whole],
        }
        print(format_json(document))
    else:
        spans = render_spans(question, adaptive, answers, whole)
        print("\n\n\n".join((*render_plans(question, answers), spans)))


class NotedStrategy:
    """A strategy that remembers which plan it made for which number of streams: its notes may
    hold figures that are true for that number alone."""

    def __init__(self, name: str, strategy: Strategy) -> None:
        self.NAME, self.HELP = name, strategy.HELP
        self._strategy = strategy
        self._made: dict[int, Plan] = {}

    def plan(self, problem: Problem) -> Plan:
        """See `Strategy.plan`."""
        made = self._strategy.plan(problem)
        self._made[problem.workload.streams] = made
        return made

    def find_notes(self, plan: Plan, streams: int) -> tuple[str, ...]:
        """The notes on ``plan`` for so many streams; none where it was made for others."""
        made = self._made[streams]
        is_same = _without_notes(made) == _without_notes(plan)
        return made.notes if is_same else ()


def answer_at(problem: Problem, strategy: NotedStrategy, plan: Plan, streams: int) -> PlanAnswer:
    """What is to be said of the ``plan`` of a strategy for so many streams."""
    from partwise.distributor.compare import evaluate

    asked = replace(problem, workload=replace(problem.workload, streams=streams))
    one = answer(asked, strategy.NAME, evaluate(asked, plan))
    document = one.document | {"notes": list(strategy.find_notes(plan, streams))}
    return replace(one, document=document)


def write_overall(
    args: argparse.Namespace, question: dict[str, Any], whole: Sequence[PlanAnswer]
) -> None:
    """Write the one plan for all numbers of streams, with what it does for the most.

    Raises:
        Infeasible: a file is asked for, and no plan fits all of them.
    """
    if args.out is None and args.svg is None:
        return
    nouns = "microbatches" if question["is_training"] else "streams"
    if not whole:
        raise Infeasible(
            f"no plan fits all of {args.streams} {nouns}: give --streams"
            " one number with --out and --svg"
        )
    last = whole[-1]
    heading = render_heading(question, last.document)
    plan = msgspec.structs.replace(last.plan, notes=tuple(last.document["notes"]))
    write_files(args, plan, last.picture, heading, render_outlook(question, last.document))
    print(f"note: written is the one plan for all numbers of {nouns}", file=sys.stderr)


def render_plans(question: dict[str, Any], answers: Sequence[PlanAnswer]) -> Iterator[str]:
    """Each plan once, with what it does for each number of streams that it is best for."""
    for plan in dict.fromkeys(one.plan for one in answers):
        first, *others = (one for one in answers if one.plan == plan)
        # One stream alone is served alike whatever the number of streams.
        figures = [render_figures(question, one.document, ("throughput",)) for one in others]
        yield "\n".join((render_planned(question, first), *itertools.chain(*figures)))


def render_spans(
    question: dict[str, Any],
    adaptive: AdaptivePlan,
    answers: Sequence[PlanAnswer],
    whole: Sequence[PlanAnswer],
) -> str:
    """Where the plans change over, and what the one for all of them does."""
    if not adaptive.change_overs:
        return "one plan is best for all of them"
    made_for = {one.plan: one.streams for one in reversed(answers)}
    lines = [
        f"from {count(span.start, name_streams(question))} on: the plan for {made_for[span.plan]}"
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


def _without_notes(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, notes=())
