"""What the cost model predicts against what deployments measure.

This machine is probed first, and that host is frozen. Then decode tokens per second of SmolLM2
and of a random llama of the 1B class, in fp32, in 1 to 3 parts, with 1 and 2 threads a server,
for 1 and 4 streams, are predicted for the plans that are deployed, and measured in several
rounds, every configuration once a round, again where others disturb it (`quiet.py`). "Beats one
machine" is the ratio to one part with a thread on each core; a prediction is wrong about it if
it is on the other side of 1 than the measured ratio with both of its quartiles.

    python bench/plan_prediction.py [--rounds N] [--host FILE] [--lock FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import itertools
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import partwise
from decode import decode
from harness import SMOLLM2, Spread, has_defaults, is_contradicted, ratio, report, spread
from partwise.cli.format import format_table
from partwise.cluster import Host
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import read_host, write_host
from partwise.distributor import Plan, balance_layers
from partwise.distributor.cost import Prediction, predict
from partwise.distributor.workload import Workload
from partwise.model import open_model
from quiet import measure_quietly
from random_llama import ensure_random_llama

PARTS, THREADS, STREAMS = (1, 2, 3), (1, 2), (1, 4)
PROMPT_TOKENS, WARM_TOKENS = 12, 6
ROUNDS = 3
PROBES = 3
"""At most, until one finds the machine quiet."""
MEDIAN_BOUND, P90_BOUND = 0.15, 0.30


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model, and how many tokens of each stream are timed."""

    name: str
    path: Path
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How a model is deployed and used."""

    case: Case
    parts: int
    threads: int
    streams: int

    def __str__(self) -> str:
        return f"{self.case.name}, {self.parts} x {self.threads} threads, {self.streams} streams"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Tokens per second of one configuration, and its ratio to one whole machine (None: it is
    that machine)."""

    configuration: Configuration
    predicted: float
    rounds: tuple[float, ...]
    predicted_ratio: float | None
    measured_ratio: Spread | None

    @property
    def measured(self) -> Spread:
        return spread(self.rounds)

    @property
    def error(self) -> float:
        return self.predicted / self.measured.median - 1

    @property
    def is_wrong(self) -> bool:
        """Whether it says "beats one machine" where that is measured not to, or the reverse."""
        if self.predicted_ratio is None or self.measured_ratio is None:
            return False
        return is_contradicted(self.measured_ratio, says_faster=self.predicted_ratio > 1)


def list_cases() -> list[Case]:
    return [
        Case(name="SmolLM2-135M", path=SMOLLM2, num_tokens=48),
        Case(name="random llama 1B", path=ensure_random_llama(), num_tokens=16),
    ]


def list_configurations(cases: Sequence[Case]) -> list[Configuration]:
    return [
        Configuration(case=case, parts=parts, threads=threads, streams=streams)
        for case, parts, threads, streams in itertools.product(cases, PARTS, THREADS, STREAMS)
    ]


def make_plan(case: Case, parts: int) -> Plan:
    """The plan that is predicted and deployed: the default one."""
    return balance_layers(open_model(case.path), [f"local-{i}" for i in range(parts)])


def predict_speed(host: Host, configuration: Configuration) -> Prediction:
    """What the cost model says of this machine, cut into servers with the threads given."""
    cut = preset(f"local-{configuration.parts}", host=host)
    servers = tuple(replace(server, threads=configuration.threads) for server in cut.servers)
    case, streams = configuration.case, configuration.streams
    workload = Workload(
        streams=streams,
        # What a row reads of its past is half of this on average, from the prompt to the end.
        context_tokens=2 * PROMPT_TOKENS + case.num_tokens,
        sequences=streams,
        prefill_tokens=PROMPT_TOKENS,
    )
    plan = make_plan(case, configuration.parts)
    return predict(plan, open_model(case.path), replace(cut, servers=servers), workload)


def measure_rounds(
    configurations: Sequence[Configuration], num_rounds: int, lock: Path | None
) -> dict[Configuration, list[float]]:
    """Tokens per second of each configuration in each round, in a changing order.

    Configurations that differ in their streams alone share a deployment.
    """
    together: dict[tuple[Case, int, int], list[Configuration]] = {}
    for each in configurations:
        together.setdefault((each.case, each.parts, each.threads), []).append(each)
    speeds: dict[Configuration, list[float]] = {each: [] for each in configurations}
    generator = random.Random(0)
    for number in range(num_rounds):
        order = list(together)
        generator.shuffle(order)
        for case, parts, threads in order:
            with holding(lock):
                _measure_deployment(case, parts, threads, together[case, parts, threads], speeds)
        print(f"round {number + 1} of {num_rounds}", file=sys.stderr, flush=True)
    return speeds


def _measure_deployment(
    case: Case,
    parts: int,
    threads: int,
    configurations: Sequence[Configuration],
    speeds: dict[Configuration, list[float]],
) -> None:
    options = partwise.DeployOptions(threads=threads)
    ids = tuple(range(1, PROMPT_TOKENS + 1))
    with partwise.deploy(case.path, plan=make_plan(case, parts), options=options) as net:
        for each in configurations:
            decode(net, ids, each.streams, WARM_TOKENS)
            run = partial(decode, net, ids, each.streams, case.num_tokens)
            quiet = measure_quietly(run, net.pids.values())
            speeds[each].append(quiet.value)
            print(
                f"{each}: {quiet.value:.2f} tokens/s (try {quiet.tries}, others used"
                f" {quiet.others_cores:.2f} cores)",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def holding(lock: Path | None) -> Iterator[None]:
    """Hold the lock of a file, which others on this machine take for their measurements."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def probe_host(lock: Path | None) -> Host:
    """This machine as measured now, again where it was busy."""
    from partwise.probe.figures import explain_load
    from partwise.probe.probing import probe_machine

    for _ in range(PROBES):
        with holding(lock):
            probe = probe_machine(Path(), lambda step, done, total: None)
        busy = explain_load(probe.figures, probe.others, probe.host.cores)
        if busy is None:
            break
        print(f"warning: {busy}", file=sys.stderr)
    return probe.host


def compare(
    host: Host,
    configurations: Sequence[Configuration],
    speeds: Mapping[Configuration, Sequence[float]],
) -> list[Outcome]:
    """Predictions beside measurements."""
    predicted = {each: predict_speed(host, each).tokens_per_s for each in configurations}
    outcomes = []
    for each in configurations:
        whole = replace(each, parts=1, threads=host.cores)
        is_comparable = whole in predicted and whole != each
        outcomes.append(
            Outcome(
                configuration=each,
                predicted=predicted[each],
                rounds=tuple(speeds[each]),
                predicted_ratio=predicted[each] / predicted[whole] if is_comparable else None,
                measured_ratio=ratio(speeds[each], speeds[whole]) if is_comparable else None,
            )
        )
    return outcomes


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of the issue."""
    errors = [abs(outcome.error) for outcome in outcomes]
    wrong = [str(outcome.configuration) for outcome in outcomes if outcome.is_wrong]
    return {
        "prediction_error_median": float(np.median(errors)),
        "prediction_error_p90": float(np.quantile(errors, 0.9)),
        "prediction_error_max": max(errors),
        "num_wrong_verdicts": len(wrong),
        "wrong_verdicts": wrong,
    }


def measure_prediction(
    *, rounds: int = ROUNDS, host: Host | None = None, lock: Path | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Probe, predict, measure, and print the table: figures, and what they come from."""
    configurations = list_configurations(list_cases())
    frozen = host or probe_host(lock)
    speeds = measure_rounds(configurations, rounds, lock)
    outcomes = compare(frozen, configurations, speeds)
    print(render(outcomes))
    details = {
        "host": write_host(frozen),
        "configurations": [
            {
                "configuration": str(outcome.configuration),
                "predicted_tokens_per_s": outcome.predicted,
                "measured_tokens_per_s": list(outcome.rounds),
                "error": outcome.error,
                "predicted_ratio_to_one_machine": outcome.predicted_ratio,
                "measured_ratio_to_one_machine": outcome.measured_ratio
                and outcome.measured_ratio.median,
                "is_wrong": outcome.is_wrong,
            }
            for outcome in outcomes
        ],
    }
    return summarize(outcomes), details


def render(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a table."""
    headers = (
        "model, parts x threads, streams", "predicted tokens/s", "measured tokens/s", "error",
        "predicted ratio to one machine", "measured ratio", "wrong",
    )  # fmt: skip
    rows = [
        (
            str(outcome.configuration),
            outcome.predicted,
            str(outcome.measured),
            f"{outcome.error:+.1%}",
            outcome.predicted_ratio,
            "" if outcome.measured_ratio is None else str(outcome.measured_ratio),
            "wrong" if outcome.is_wrong else "",
        )
        for outcome in outcomes
    ]
    return format_table(headers, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--host", type=Path, help="a host file instead of a probe")
    parser.add_argument("--lock", type=Path, help="hold this file's lock for each deployment")
    args = parser.parse_args()
    host = None if args.host is None else read_host(args.host)
    figures, details = measure_prediction(rounds=args.rounds, host=host, lock=args.lock)
    args.lock = None  # who waits for whom does not change what is measured
    report("plan_prediction", figures, details, is_default=has_defaults(parser, args))
    is_met = figures["prediction_error_median"] <= MEDIAN_BOUND
    return int(not (is_met and figures["prediction_error_p90"] <= P90_BOUND))


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
