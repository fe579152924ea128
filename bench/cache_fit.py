"""What it is worth that a part stays in cache: the same part run again and again by itself, as on
a host of its own, against its turn in a chain of parts far larger than the cache.

One thread. Parts are one block of a random llama each, of about 2 to 64 MiB, by the runner that
the probe measures. A pass is one token, bound by reading, or a prompt of PROMPT_ROWS, bound by
computing. Both sides are measured in turn in several rounds and stand beside the cost model, for
which this machine is probed first. Where there is a CUDA device `cache_fit_cuda.py` is run too;
where there is none, what the results have of one stays. `cache_fit_page.py` brings
docs/experiments/cache-fit.md up to date.

    python bench/cache_fit.py [--precisions fp32,int8,int4] [--rounds N] [--host FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from block_chain import choose_width, cut_chain, save_chain
from cache_fit_cuda import CudaRun, measure_cuda, read_cuda, summarize_cuda, tabulate_cuda
from cache_fit_outcome import Outcome, tabulate
from harness import RESULTS, has_defaults, report
from partwise.cli.format import MIB
from partwise.cluster import Host, Server
from partwise.cluster.toml_file import read_host, write_host
from partwise.distributor.load import Load, measure_layer
from partwise.distributor.plan import Precision
from partwise.distributor.speed import Bound, Sharing, find_pass, measure_speed
from partwise.distributor.workload import ELEMENT_BYTES, Workload
from partwise.model import LayerKind, Model, open_model
from partwise.part.huge_pages import use_huge_pages
from partwise.part.kernels import Kernels, load_kernels
from partwise.part.runner import Runner, RunnerOptions
from partwise.remote.frame import Row, RowFlag
from partwise.store import Store
from plan_prediction import probe_host

SIZES_MIB = (2, 4, 8, 12, 16, 24, 32, 48, 64)
CHAIN_BYTES, LEAST_PARTS = 192 * MIB, 4
"""Of all parts together, or more where four of them are."""
PROMPT_TOKENS, PASSES, ROUNDS = 16, 24, 3
FITS_MIB = 12
"""Parts in fp32 that are no larger must gain by being resident."""
PROMPT_ROWS, PROMPT_SIZES_MIB = 128, (4, 8, 12)
"""Tokens of a pass that is bound by computing, and the parts that are measured so."""
BOUND = 0.25


class Chain:
    """Parts of one block each, every one with its own runner, in this process."""

    def __init__(self, path: Path, model: Model, precision: Precision, kernels: Kernels) -> None:
        kernels.use_threads(1)
        plan = cut_chain(model, precision)
        self._runners: list[Runner] = []
        with Store.open(path) as store:
            for part in plan.parts[1:-1]:
                options = RunnerOptions(
                    plan=plan,
                    part=part.name,
                    model=model,
                    model_path=path,
                    store=store,
                    threads=1,
                    on_progress=lambda done_bytes, total_bytes: None,
                )
                self._runners.append(kernels.make_runner(options))
        self._hidden = np.ones((PROMPT_ROWS, model.hidden_size), np.float32)
        prompt = [Row(0, 0, PROMPT_TOKENS, RowFlag.PROMPT)]
        for runner in self._runners:
            runner.run(prompt, (self._hidden[:PROMPT_TOKENS],), _do_nothing)
        use_huge_pages(_do_nothing)  # as a server does

    def time_resident(self, tokens: int) -> float:
        """Seconds of a pass through one part that has just been run."""
        runner = self._runners[0]
        return self._time(lambda position: self._pass(runner, position, tokens))

    def time_chained(self, tokens: int) -> float:
        """Seconds of a pass through one part while all are run in turn."""

        def run(position: int) -> None:
            for runner in self._runners:
                self._pass(runner, position, tokens)

        return self._time(run) / len(self._runners)

    def _time(self, run: Callable[[int], object]) -> float:
        """The median, without the passes that warm up."""
        times = []
        for number in range(PASSES):
            start_s = time.perf_counter()
            run(PROMPT_TOKENS + number)
            times.append(time.perf_counter() - start_s)
        return float(np.median(times[PASSES // 4 :]))

    def _pass(self, runner: Runner, position: int, tokens: int) -> None:
        if tokens == 1:
            runner.run([Row(0, position, 1)], (self._hidden[:1],), _do_nothing)
            return
        runner.release((1,))
        prompt = [Row(1, 0, tokens, RowFlag.PROMPT)]
        runner.run(prompt, (self._hidden[:tokens],), _do_nothing)


def _do_nothing() -> None:
    """Nobody waits."""


def measure(precision: Precision, size_mib: int, host: Host, rounds: int) -> list[Outcome]:
    """One size: build the chain, measure both sides in turn, and ask the cost model."""
    part_bytes = size_mib * MIB
    width = choose_width(part_bytes, ELEMENT_BYTES[precision])
    num_parts = max(LEAST_PARTS, -(-CHAIN_BYTES // part_bytes))
    with tempfile.TemporaryDirectory(prefix="partwise-") as folder:
        path = Path(folder)
        save_chain(path, width, num_parts)
        model = open_model(path)
        kernels = next(each for each in load_kernels() if precision in each.precisions)
        chain = Chain(path, model, precision, kernels)
        is_prompt = precision == "fp32" and size_mib in PROMPT_SIZES_MIB
        return [
            _measure_passes(chain, tokens, rounds, (model, host, precision, num_parts))
            for tokens in (1, *(PROMPT_ROWS,) * is_prompt)
        ]


def _measure_passes(
    chain: Chain, tokens: int, rounds: int, of: tuple[Model, Host, Precision, int]
) -> Outcome:
    pairs = [(chain.time_resident(tokens), chain.time_chained(tokens)) for _ in range(rounds + 1)]
    resident_s, chained_s = zip(*pairs[1:], strict=True)
    model, host, precision, num_parts = of
    (resident, bound_by), (chained, _) = (
        predict(model, host, precision, tokens, parts) for parts in (1, num_parts)
    )
    return Outcome(
        precision=precision,
        tokens=tokens,
        part_bytes=load_block(model).working_set_bytes(workload_of(precision)),
        num_parts=num_parts,
        resident_s=resident_s,
        chained_s=chained_s,
        predicted_resident_s=resident,
        predicted_chained_s=chained,
        bound_by=bound_by,
    )


def predict(
    model: Model, host: Host, precision: Precision, tokens: int, parts_in_turn: int
) -> tuple[float, Bound]:
    """Seconds of a pass of ``tokens`` through one block, and what binds it, while so many such
    parts take turns on one core."""
    workload, load = workload_of(precision), load_block(model)
    server = Server(name="whole", host=host.name, threads=1, memory_bytes=host.memory_bytes)
    sharing = Sharing(active_threads=1, used_threads=1)
    kind = find_pass(model, workload, tokens)
    if tokens > 1:
        kind = replace(kind, rows=1)  # one sequence
    speed = measure_speed(host, server, precision, sharing, kind)
    read_bytes, macs = load.read_bytes(workload, kind.rows), load.macs(workload) * tokens
    working_set = parts_in_turn * load.working_set_bytes(workload)
    seconds = speed.pass_s(read_bytes, working_set, macs, 1, 1)
    return seconds, speed.find_bound(read_bytes, working_set, macs, seconds)


def workload_of(precision: Precision) -> Workload:
    # A row's past is half of this on average.
    return Workload(precision=precision, context_tokens=2 * PROMPT_TOKENS + PASSES)


def load_block(model: Model) -> Load:
    return measure_layer(next(la for la in model.layers if la.kind is LayerKind.BLOCK))


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures: gains of parts that fit and of passes that are bound by computing, and the
    errors of the predictions."""
    figures: dict[str, Any] = {}
    for precision in dict.fromkeys(outcome.precision for outcome in outcomes):
        own = [o for o in outcomes if o.precision == precision and o.tokens == 1]
        fitting = [outcome for outcome in own if outcome.part_bytes <= FITS_MIB * MIB]
        figures[f"{precision}_gain_fitting"] = max(o.gain.median for o in fitting)
        figures[f"{precision}_gain_least_fitting"] = min(o.gain.median for o in fitting)
        figures[f"{precision}_gain_error_fitting"] = max(abs(o.error) for o in fitting)
        figures[f"{precision}_gain_error_max"] = max(abs(o.error) for o in own)
    if computing := [o for o in outcomes if o.tokens > 1]:
        figures["computing_gain"] = max(o.gain.median for o in computing)
        figures["computing_gain_error"] = max(abs(o.error) for o in computing)
        figures["computing_is_bound_by_it"] = all(o.bound_by == "compute" for o in computing)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", default="fp32,int8,int4")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--host", type=Path, help="a host file instead of a probe")
    args = parser.parse_args()
    host = probe_host(None) if args.host is None else read_host(args.host)
    outcomes = []
    for precision in args.precisions.split(","):
        for size_mib in SIZES_MIB:
            outcomes += measure(cast("Precision", precision), size_mib, host, args.rounds)
            last = outcomes[-1]
            print(f"{precision}, {size_mib} MiB: {last.gain}", file=sys.stderr, flush=True)
    print(tabulate(outcomes).render_text())
    cuda = measure_cuda(args.rounds) or read_last_cuda()
    print(tabulate_cuda(cuda).render_text())
    figures = summarize(outcomes) | summarize_cuda(cuda)
    details = {
        "host": write_host(host),
        "parts": [vars_of(outcome) for outcome in outcomes],
        "cuda": None if cuda is None else asdict(cuda),
    }
    report("cache_fit", figures, details, is_default=has_defaults(parser, args))
    judged = ("fp32_gain_error_fitting", "computing_gain_error")
    return int(any(figures.get(key, 0.0) > BOUND for key in judged))


def read_last_cuda() -> CudaRun | None:
    """What the last results have of a CUDA device, maybe of another machine."""
    path = RESULTS / "cache_fit.json"
    return read_cuda(json.loads(path.read_text())) if path.exists() else None


def vars_of(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome) | {"gain": outcome.gain.median, "predicted_gain": outcome.predicted_gain}


if __name__ == "__main__":
    sys.exit(main())
