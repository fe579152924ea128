"""The strategy ``auto``: whichever plan is predicted best for the goal, and why it won."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from partwise.distributor import latency, throughput
from partwise.distributor.contest import Contender, Goal, contend, read_goal
from partwise.distributor.cost import Prediction, one_machine
from partwise.distributor.fewest import list_fewest
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.reduction import plan_reduced
from partwise.distributor.searched import find_contenders, note_split

NAME = "auto"
HELP = "whichever of the strategies is predicted best for --goal, and why it won"


def plan(problem: Problem) -> Plan:
    """The best predicted of ``greedy``, ``balanced``, ``count``, ``compute`` and of a search.

    The plan names the strategy that made it, and its first note says by how much it won.
    Options: ``goal``, one of ``latency`` (as if not given), ``throughput`` and
    ``fewest-servers`` (of as few servers, the least latency); ``cache_fit`` as in `greedy`.

    Raises:
        PlanError: the goal is not known.
        Infeasible: nothing fits, with what is missing.
    """
    read_goal(problem)
    return plan_reduced(problem, find)


def find(problem: Problem) -> Plan | None:
    """The plan for layers as they are; None where nothing fits."""
    goal = read_goal(problem)
    contenders = _find_contenders(problem, goal)
    if not contenders:
        return None
    best = min(contenders, key=goal.rank)
    won = _explain(problem, goal, best, contenders)
    notes = (won, *best.plan.notes, *note_split(problem, best.plan))
    return msgspec.structs.replace(best.plan, notes=notes)


def _find_contenders(problem: Problem, goal: Goal) -> list[Contender]:
    if goal.name == "throughput":
        return find_contenders(problem, throughput.NAME, problem.workload.streams)
    found = find_contenders(problem, latency.NAME, 1)
    if goal.name == "latency":
        return found
    fewer_than = min((len(c.plan.parts) for c in found), default=len(problem.servers) + 1)
    return [*found, *contend(problem, list_fewest(problem, latency.NAME, fewer_than))]


def _explain(problem: Problem, goal: Goal, best: Contender, contenders: Sequence[Contender]) -> str:
    """One line: the winner's figure, that of the best plan of another strategy, that of the best
    single machine for the goal."""
    others = [c for c in contenders if c.plan.strategy != best.plan.strategy]
    others = [c for c in others if not c.is_like(best)]
    words = [f"{best.plan.strategy} wins for {goal.name} with {goal.say(best.prediction)}"]

    def compare(name: str, prediction: Prediction) -> str:
        times = goal.measure(prediction)[0] / goal.measure(best.prediction)[0]
        return f"{name} has {goal.say(prediction)} ({times:.3g} x)"

    if others:
        second = min(others, key=goal.rank)
        words.append(compare(f"the runner-up {second.plan.strategy}", second.prediction))
    machine = one_machine(problem.model, problem.cluster, problem.workload, goal.measure)
    words.append(compare("one machine", machine) if machine else "no one machine holds the model")
    return ", ".join(words)
