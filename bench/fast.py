"""Speed of compressed parts, on SmolLM2 (dequantised Q4_1), against onnxruntime-genai and against
one part.

Everything is started once and stays; each round runs all of it, one after the other, in a
changing order, a run that others disturb again (`quiet.py`), what has one thread on the same
processor (`rounds.py`). Ratios are taken within a round.

- decode of one stream and the time to read a prompt of 512 tokens: one part with one thread
  against onnxruntime-genai with one thread, at the same bits, blocks of 32, symmetric, inputs of
  products as int8;
- fp32 by ONNX Runtime: one part with one thread, and two parts, at one stream and at eight;
- int4, one thread a part: two parts at 1, 8 and 16 streams against one part at one stream;
  against one part with the same batching (two microbatches) and one thread; and with two threads.

    python bench/fast.py [--rounds N] [--tokens N]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import partwise
from decode import decode
from genai_peer import build, serve_genai
from harness import SMOLLM2, Spread, has_defaults, ratio, report, spread
from partwise.cli.format import format_table
from rounds import Run, take_rounds

PROMPT = "Once upon a time, in a village by the sea, there lived"
LONG_TOKENS, BLOCK = 512, 32
PRECISIONS = ("int4", "int8")
STREAMS = (8, 16)
BATCHED = 2
"""Microbatches in flight on both sides at several streams."""
MAX_SPREAD_STREAMS_TOKENS = 48


class Peer:
    """onnxruntime-genai in a process of its own, until ``stack`` ends."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        self._pipe: Connection = pipe
        # A daemon: it waits for work for ever, and nobody would wait for one that does.
        process = context.Process(target=serve_genai, args=(theirs, str(folder), 1), daemon=True)
        process.start()
        stack.callback(process.kill)
        theirs.close()  # so that its end is seen here
        self._pipe.recv()
        self._pids = (process.pid or 0,)

    def decode(self, ids: Sequence[int], num_tokens: int) -> Run:
        """Tokens per second after the first."""
        return self._run(lambda: self._ask(ids, num_tokens)[1])

    def prefill(self, ids: Sequence[int]) -> Run:
        """Prompts per second."""
        return self._run(lambda: 1 / self._ask(ids, 1)[0])

    def _run(self, measure: Callable[[], float]) -> Run:
        return Run(measure=measure, pids=self._pids, is_single=True)

    def _ask(self, ids: Sequence[int], num_tokens: int) -> tuple[float, float]:
        self._pipe.send((list(ids), num_tokens))
        answer: tuple[float, float] = self._pipe.recv()
        return answer


class Ours:
    """A deployment of SmolLM2 until ``stack`` ends."""

    def __init__(
        self, stack: ExitStack, precision: str, parts: int, *, threads: int = 1, in_flight: int = 0
    ) -> None:
        options = partwise.DeployOptions(
            threads=threads, max_in_flight=in_flight, precision=precision, runner="onnx"
        )
        self.net = stack.enter_context(partwise.deploy(SMOLLM2, parts=parts, options=options))
        self._is_single = parts * threads == 1

    def decode(self, ids: Sequence[int], streams: int, num_tokens: int) -> Run:
        """Tokens per second of all streams."""
        return self._run(lambda: decode(self.net, tuple(ids), streams, num_tokens))

    def prefill(self, ids: Sequence[int]) -> Run:
        """Prompts per second."""
        request = partwise.Request(prompt_ids=tuple(ids), max_tokens=1)

        def measure() -> float:
            start_s = time.monotonic()
            generation = self.net.submit(request)
            for _ in generation:
                pass
            return 1 / (time.monotonic() - start_s)

        return self._run(measure)

    def _run(self, measure: Callable[[], float]) -> Run:
        pids = tuple(self.net.pids.values())
        return Run(measure=measure, pids=pids, is_single=self._is_single)


def list_runs(stack: ExitStack, num_tokens: int) -> dict[str, Run]:
    """Everything, started, by name."""
    runs: dict[str, Run] = {}
    ours = {precision: Ours(stack, precision, 1) for precision in PRECISIONS}
    text = ours["int4"].net.text
    ids = text.encode(PROMPT)
    long_ids = list(itertools.islice(itertools.cycle(range(1000, 2000)), LONG_TOKENS))
    for precision in PRECISIONS:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="partwise-")))
        build(SMOLLM2, folder, block=BLOCK, precision=precision)
        peer = Peer(stack, folder)
        runs[f"{precision}, genai"] = peer.decode(ids, num_tokens)
        runs[f"{precision}, 1 part"] = ours[precision].decode(ids, 1, num_tokens)
        runs[f"{precision}, genai, prompt"] = peer.prefill(long_ids)
        runs[f"{precision}, 1 part, prompt"] = ours[precision].prefill(long_ids)
    plain = {parts: Ours(stack, "fp32", parts, in_flight=BATCHED) for parts in (1, 2)}
    for parts, each in plain.items():
        for streams in (1, STREAMS[0]):
            name = f"fp32, {parts} part{'s' * (parts > 1)}, {streams} stream{'s' * (streams > 1)}"
            runs[name] = each.decode(ids, streams, min(num_tokens, MAX_SPREAD_STREAMS_TOKENS))
    two, one = Ours(stack, "int4", 2), Ours(stack, "int4", 1, in_flight=BATCHED)
    wide = Ours(stack, "int4", 1, threads=2, in_flight=BATCHED)
    runs["int4, 2 parts"] = two.decode(ids, 1, num_tokens)
    for streams in STREAMS:
        fewer = min(num_tokens, MAX_SPREAD_STREAMS_TOKENS)
        for name, each in (("2 parts", two), ("1 part", one), ("1 part, 2 threads", wide)):
            runs[f"int4, {name}, {streams} streams"] = each.decode(ids, streams, fewer)
    return runs


def measure(num_rounds: int, num_tokens: int) -> dict[str, list[float]]:
    """What each run measured, one figure a round, after one round to warm up."""
    with ExitStack() as stack:
        return take_rounds(list_runs(stack, num_tokens), num_rounds)


def find_ratios(rates: dict[str, list[float]]) -> dict[str, Spread]:
    """The figures of the issue; of several numbers of streams each."""
    found = {f"{p}_over_genai": ratio(rates[f"{p}, 1 part"], rates[f"{p}, genai"])
             for p in PRECISIONS}  # fmt: skip
    for p in PRECISIONS:
        ours, theirs = rates[f"{p}, 1 part, prompt"], rates[f"{p}, genai, prompt"]
        found[f"{p}_prefill_over_genai"] = ratio(ours, theirs)
    for name in ("1 stream", f"{STREAMS[0]} streams"):
        pair = rates[f"fp32, 2 parts, {name}"], rates[f"fp32, 1 part, {name}"]
        found[f"fp32_two_parts_over_one_part_{name.replace(' ', '_')}"] = ratio(*pair)
    alone = rates["int4, 1 part"]
    found["two_parts_one_stream"] = ratio(rates["int4, 2 parts"], alone)
    for count in STREAMS:
        two = rates[f"int4, 2 parts, {count} streams"]
        found[f"two_parts_{count}_streams"] = ratio(two, alone)
        for other, key in (("1 part", "one_thread"), ("1 part, 2 threads", "two_threads")):
            base = rates[f"int4, {other}, {count} streams"]
            found[f"two_parts_over_{key}_{count}_streams"] = ratio(two, base)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    rates = measure(args.rounds, args.tokens)
    ratios = find_ratios(rates)
    print(format_table(("run", "a second"), [(n, str(spread(r))) for n, r in rates.items()]))
    print(format_table(("ratio", "median (quartiles)"), [(n, str(r)) for n, r in ratios.items()]))
    figures = {name: value.median for name, value in ratios.items()}
    figures["prefill_over_genai"] = min(figures[f"{p}_prefill_over_genai"] for p in PRECISIONS)
    for key in ("one_thread", "two_threads"):
        names = [f"two_parts_over_{key}_{streams}_streams" for streams in STREAMS]
        figures[f"two_parts_over_{key}"] = min(figures[name] for name in names)
    report("fast", figures, dict(rates), is_default=has_defaults(parser, args))


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    main()
