"""Members of a stage against one part, at one stream: a random llama of the 1B class (8 KV groups)
and SmolLM2.

This machine is probed first, and every deployment predicted. Then all are started once and stay;
each round runs all of them, one after the other, in a changing order, a run that others disturb
again (`quiet.py`). Ratios are taken within a round. Prompts have one token, so that all exchanges
are of one hidden state.

- the llama in int8 and int4: two members with a thread each against one part with one thread and
  against one part with two;
- how long an exchange of a hidden state (8 KB) keeps its members, by their own counters, with what
  they wait for each other;
- SmolLM2: two members against one part with one thread and with two and against two parts by
  layers; the planner says beforehand which is faster.

    python bench/neurons.py [--rounds N] [--tokens N] [--host FILE]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import partwise
from decode import decode
from harness import SMOLLM2, Spread, has_defaults, is_contradicted, ratio, report, spread
from partwise.cli.format import format_table
from partwise.cluster import Host
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import read_host, write_host
from partwise.distributor.compare import Planned, evaluate
from partwise.distributor.problem import Problem
from partwise.distributor.strategies import STRATEGIES
from partwise.distributor.verdict import Verdict
from partwise.distributor.workload import Workload
from partwise.model import open_model
from plan_prediction import probe_host
from quiet import measure_quietly
from random_llama import ensure_random_llama

PROMPT_IDS, WARM_TOKENS = (1,), 6
ROUNDS, NUM_TOKENS = 7, 32
LLAMA = "random llama 1B"
OVER_ONE, OVER_TWO_THREADS, PREDICTED_WITHIN = 1.5, 0.85, 0.15


class Way(StrEnum):
    """How a model is deployed."""

    MEMBERS = "2 members"
    LAYERS = "2 parts by layers"
    ONE = "1 part"
    WIDE = "1 part, 2 threads"


THREADS = {Way.MEMBERS: 1, Way.LAYERS: 1, Way.ONE: 1, Way.WIDE: 2}
SERVERS = {Way.MEMBERS: 2, Way.LAYERS: 2, Way.ONE: 1, Way.WIDE: 1}
STRATEGY = {way: "count" if way is Way.MEMBERS else "balanced" for way in Way}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model at a precision, and the ways in which it is deployed."""

    name: str
    path: Path
    precision: str
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One deployment."""

    subject: Subject
    way: Way

    def __str__(self) -> str:
        return f"{self.subject.name}, {self.subject.precision}, {self.way}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one deployment by rounds: tokens per second, and of members the microseconds that an
    exchange takes."""

    tokens_per_s: list[float]
    exchange_us: list[float]


def list_subjects() -> list[Subject]:
    llama = Subject(
        name=LLAMA,
        path=ensure_random_llama(),
        precision="int8",
        ways=(Way.MEMBERS, Way.ONE, Way.WIDE),
    )
    small = Subject(name="SmolLM2-135M", path=SMOLLM2, precision="fp32", ways=tuple(Way))
    return [
        *(replace(llama, precision=precision) for precision in ("int8", "int4")),
        *(replace(small, precision=precision) for precision in ("fp32", "int8", "int4")),
    ]


def list_setups(subjects: Sequence[Subject]) -> list[Setup]:
    return [Setup(subject=subject, way=way) for subject in subjects for way in subject.ways]


def plan(setup: Setup, host: Host, num_tokens: int) -> Planned:
    """The plan that is deployed, what it is predicted to give, and whether it beats one machine:
    one part with a thread on each core."""
    way = setup.way
    cut = preset(f"local-{SERVERS[way]}", host=host)
    servers = tuple(replace(server, threads=THREADS[way]) for server in cut.servers)
    workload = Workload(
        context_tokens=num_tokens,  # a row reads half of this on average
        prefill_tokens=1,
        precision=setup.subject.precision,
    )
    problem = Problem(
        model=open_model(setup.subject.path),
        cluster=replace(cut, servers=servers),
        workload=workload,
        servers=tuple(server.name for server in servers),
    )
    return evaluate(problem, STRATEGIES[STRATEGY[way]].plan(problem))


def measure(
    planned: Mapping[Setup, Planned], num_rounds: int, num_tokens: int
) -> dict[Setup, Measured]:
    """All deployments round by round, in a changing order."""
    found = {setup: Measured(tokens_per_s=[], exchange_us=[]) for setup in planned}
    with ExitStack() as stack:
        nets = {}
        for setup, each in planned.items():
            options = partwise.DeployOptions(threads=THREADS[setup.way])
            net = partwise.deploy(setup.subject.path, plan=each.plan, options=options)
            nets[setup] = stack.enter_context(net)
            decode(net, PROMPT_IDS, 1, WARM_TOKENS)
        order, generator = list(nets), random.Random(0)
        for number in range(num_rounds):
            generator.shuffle(order)
            for setup in order:
                _measure_once(nets[setup], num_tokens, found[setup])
            print(f"round {number + 1} of {num_rounds}", file=sys.stderr, flush=True)
    return found


def _measure_once(net: partwise.Net, num_tokens: int, found: Measured) -> None:
    before = net.counters()
    quiet = measure_quietly(lambda: decode(net, PROMPT_IDS, 1, num_tokens), net.pids.values())
    found.tokens_per_s.append(quiet.value)
    exchanges = [part.exchange for part in net.reports(before) if part.exchange is not None]
    if exchanges:
        calls = sum(exchange.calls for exchange in exchanges)
        found.exchange_us.append(1e6 * sum(each.exchange_s for each in exchanges) / calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Members against another way to deploy the same: what was predicted, and measured."""

    subject: Subject
    rival: Way
    predicted: float
    measured: Spread

    @property
    def says_faster(self) -> bool:
        """Whether the planner says that members beat the rival: what comes out even does not."""
        return Verdict(measure="latency", streams=1, speedup=self.predicted).beats_one_machine

    @property
    def is_wrong(self) -> bool:
        """Whether it was measured to be the other way round."""
        return is_contradicted(self.measured, says_faster=self.says_faster)

    def __str__(self) -> str:
        return f"{self.subject.name}, {self.subject.precision}, over {self.rival}"


def list_duels(predicted: Mapping[Setup, float], measured: Mapping[Setup, Measured]) -> list[Duel]:
    """Tokens per second of members over those of every other way of the same subject."""
    duels = []
    for theirs in predicted:
        ours = replace(theirs, way=Way.MEMBERS)
        if theirs != ours:
            duels.append(
                Duel(
                    subject=theirs.subject,
                    rival=theirs.way,
                    predicted=predicted[ours] / predicted[theirs],
                    measured=ratio(measured[ours].tokens_per_s, measured[theirs].tokens_per_s),
                )
            )
    return duels


def find_errors(
    predicted: Mapping[Setup, float], measured: Mapping[Setup, Measured]
) -> dict[Setup, float]:
    """Of the predicted tokens per second, as shares of the measured ones."""
    return {
        setup: predicted[setup] / spread(found.tokens_per_s).median - 1
        for setup, found in measured.items()
    }


def summarise(
    predicted: Mapping[Setup, float], measured: Mapping[Setup, Measured]
) -> dict[str, Any]:
    """The figures of the issue: the least of both precisions, and each of them."""
    duels, errors = list_duels(predicted, measured), find_errors(predicted, measured)
    figures: dict[str, Any] = {}
    for key, rival in (("one_part", Way.ONE), ("two_threads", Way.WIDE)):
        ratios = {
            duel.subject.precision: duel.measured.median
            for duel in duels
            if duel.rival is rival and duel.subject.name == LLAMA
        }
        figures[f"members_over_{key}"] = min(ratios.values())
        figures |= {f"{p}_members_over_{key}": value for p, value in ratios.items()}
    large = [setup for setup in measured if setup.subject.name == LLAMA]
    figures["exchange_us"] = statistics.median(
        value for setup in large for value in measured[setup].exchange_us
    )
    figures["prediction_error_max"] = max(abs(errors[setup]) for setup in large)
    small = [duel for duel in duels if duel.subject.name != LLAMA]
    figures["smollm2_num_verdicts"] = len(small)
    figures["smollm2_wrong_verdicts"] = [str(duel) for duel in small if duel.is_wrong]
    return figures


def render(predicted: Mapping[Setup, float], measured: Mapping[Setup, Measured]) -> str:
    """All deployments, then all comparisons."""
    errors = find_errors(predicted, measured)
    setups = format_table(
        ("deployed", "tokens/s", "predicted", "off by", "us/exchange"),
        [
            (
                str(setup),
                str(spread(found.tokens_per_s)),
                predicted[setup],
                f"{errors[setup]:+.0%}",
                str(spread(found.exchange_us)) if found.exchange_us else "",
            )
            for setup, found in measured.items()
        ],
    )
    duels = format_table(
        ("2 members", "times as fast", "predicted", "verdict"),
        [
            (str(duel), str(duel.measured), duel.predicted, "wrong" if duel.is_wrong else "right")
            for duel in list_duels(predicted, measured)
        ],
    )
    return f"{setups}\n\n{duels}"


def is_met(figures: Mapping[str, Any]) -> bool:
    """Whether the figures are those that the issue asks for."""
    return (
        figures["members_over_one_part"] >= OVER_ONE
        and figures["members_over_two_threads"] >= OVER_TWO_THREADS
        and figures["prediction_error_max"] <= PREDICTED_WITHIN
        and not figures["smollm2_wrong_verdicts"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS)
    parser.add_argument("--host", type=Path, help="a host file instead of a probe")
    args = parser.parse_args()
    host = probe_host(None) if args.host is None else read_host(args.host)
    planned = {setup: plan(setup, host, args.tokens) for setup in list_setups(list_subjects())}
    for setup, each in planned.items():
        verdict = f": beats one machine: {each.verdicts[0]}" * (setup.way is Way.MEMBERS)
        print(f"{setup}: {each.prediction.tokens_per_s:.2f} tokens/s predicted{verdict}")
    measured = measure(planned, args.rounds, args.tokens)
    predicted = {setup: each.prediction.tokens_per_s for setup, each in planned.items()}
    print(render(predicted, measured))
    figures = summarise(predicted, measured)
    details = {
        "host": write_host(host),
        "predicted_tokens_per_s": {str(setup): value for setup, value in predicted.items()},
        "measured": {str(setup): asdict(found) for setup, found in measured.items()},
    }
    report("neurons", figures, details, is_default=has_defaults(parser, args))
    return int(not is_met(figures))


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
