"""Decode speed of parts against one part and against transformers, on SmolLM2 in fp32 by torch.

Every configuration is deployed once and stays; each round runs all of them, one after the
other, in a changing order, what has one thread on the same processor (`rounds.py`). Ratios are
taken within a round.

- one part, one thread, one stream, against transformers' `generate` with one thread;
- two parts of one thread each against that one part, at one stream;
- four streams: two parts of one thread each against one part with one thread and against one
  part with two threads; same batching on both sides: two microbatches of two rows in flight.

    python bench/decode.py [--rounds N] [--tokens N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import partwise
from harness import SMOLLM2, has_defaults, ratio, report, spread
from partwise.cli.format import format_table
from rounds import Run, take_rounds

PROMPT = "Once upon a time, in a village by the sea, there lived"
NUM_STREAMS = 4
RUNNER = "torch"
"""As transformers. ONNX Runtime reads fp32 weights twice as fast on one core, which is more than
half of what memory gives to both: bench/fast.py has its figures."""
BATCHED = 2
"""Microbatches in flight on both sides at four streams."""


def serve_transformers(pipe: Connection, model: str, threads: int) -> None:
    """A process that decodes with transformers whenever it is asked."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    pipe.send("ready")
    while True:
        ids, num_tokens = pipe.recv()
        inputs = torch.tensor([ids])
        arguments = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        start_s = time.perf_counter()
        net.generate(inputs, max_new_tokens=1, **arguments)
        first_s = time.perf_counter()
        net.generate(inputs, max_new_tokens=num_tokens, **arguments)
        stop_s = time.perf_counter()
        # The time of the tokens after the first, like ours.
        pipe.send((num_tokens - 1) / (stop_s - first_s - (first_s - start_s)))


def decode(net: partwise.Net, ids: tuple[int, ...], num_streams: int, num_tokens: int) -> float:
    """Tokens per second of all streams together, from when all decode until the last ends."""
    request = partwise.Request(prompt_ids=ids, max_tokens=num_tokens)
    generations = [net.submit(request) for _ in range(num_streams)]
    for generation in generations:
        for _ in generation:
            pass
    start_s = max(generation.token_times_s[0] for generation in generations)
    stop_s = max(generation.token_times_s[-1] for generation in generations)
    count = sum(t > start_s for g in generations for t in g.token_times_s)
    return count / (stop_s - start_s)


def deploy(stack: ExitStack, parts: int, threads: int, max_in_flight: int = 0) -> partwise.Net:
    """Parts of SmolLM2 until ``stack`` ends."""
    options = partwise.DeployOptions(threads=threads, max_in_flight=max_in_flight, runner=RUNNER)
    return stack.enter_context(partwise.deploy(SMOLLM2, parts=parts, options=options))


def start_transformers(stack: ExitStack) -> tuple[Connection, int]:
    """The pipe to a process that serves transformers until ``stack`` ends, and its number."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # A daemon: it waits for work for ever, and nobody would wait for one that does.
    process = context.Process(
        target=serve_transformers, args=(theirs, str(SMOLLM2), 1), daemon=True
    )
    process.start()
    stack.callback(process.kill)
    theirs.close()  # so that its end is seen here
    ours.recv()
    return ours, process.pid or 0


def measure(num_rounds: int, num_tokens: int) -> dict[str, list[float]]:
    """Tokens per second of every configuration, one figure a round."""
    with ExitStack() as stack:
        pipe, pid = start_transformers(stack)
        one, two = deploy(stack, 1, 1), deploy(stack, 2, 1)
        one_batched, wide_batched = deploy(stack, 1, 1, BATCHED), deploy(stack, 1, 2, BATCHED)
        ids = one.text.encode(PROMPT)

        def transformers_speed() -> float:
            pipe.send((list(ids), num_tokens))
            return float(pipe.recv())

        def run(net: partwise.Net, num_streams: int, *, is_single: bool = False) -> Run:
            return Run(
                measure=lambda: decode(net, ids, num_streams, num_tokens),
                pids=tuple(net.pids.values()),
                is_single=is_single,
            )

        return take_rounds(
            {
                "transformers, 1 thread, 1 stream": Run(
                    measure=transformers_speed, pids=(pid,), is_single=True
                ),
                "1 part, 1 thread, 1 stream": run(one, 1, is_single=True),
                "2 parts, 1 thread each, 1 stream": run(two, 1),
                "1 part, 1 thread, 4 streams": run(one_batched, NUM_STREAMS, is_single=True),
                "1 part, 2 threads, 4 streams": run(wide_batched, NUM_STREAMS),
                "2 parts, 1 thread each, 4 streams": run(two, NUM_STREAMS),
            },
            num_rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    speeds = measure(args.rounds, args.tokens)
    names = list(speeds)
    figures = {
        "one_part_over_transformers": ratio(speeds[names[1]], speeds[names[0]]),
        "two_parts_one_stream": ratio(speeds[names[2]], speeds[names[1]]),
        "two_parts_four_streams": ratio(speeds[names[5]], speeds[names[3]]),
        "two_parts_over_two_threads": ratio(speeds[names[5]], speeds[names[4]]),
    }
    print(format_table(("run", "tokens/s"), [(n, str(spread(s))) for n, s in speeds.items()]))
    print(format_table(("ratio", "median (quartiles)"), [(n, str(r)) for n, r in figures.items()]))
    report(
        "decode",
        {name: value.median for name, value in figures.items()},
        speeds,
        is_default=has_defaults(parser, args),
    )


if __name__ == "__main__":
    assert Path(SMOLLM2).is_dir(), f"{SMOLLM2} is missing: run `make model`"
    main()
