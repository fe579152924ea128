"""How soon a warm `partwise generate` shows its first token: from the start of the process
until the first byte on its stdout, with three servers, which it starts and loads itself.

    python bench/first_token.py [--rounds N]
"""

from __future__ import annotations

import argparse
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness import SMOLLM2, has_defaults, report, spread
from partwise.cli.format import format_table

BOUND_S = 9.0
LIMIT_S = 120.0
WORDS = ("generate", str(SMOLLM2), "What is the capital of France?", "--parts", "3")


def measure_command(words: Sequence[str] = WORDS) -> tuple[float, float]:
    """Seconds until the first token of ``partwise`` with these words, and until it ended.

    Raises:
        RuntimeError: it printed nothing in time, or failed.
    """
    command = [str(Path(sys.executable).parent / "partwise"), *words]
    start_s = time.monotonic()
    # Unbuffered, so that one byte can be read as soon as it is there.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout is not None
        is_ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
        if not is_ready:
            process.terminate()
            raise RuntimeError(f"no token in {LIMIT_S:g} s from {' '.join(command)}")
        first = process.stdout.read(1)
        first_s = time.monotonic() - start_s
        _, notices = process.communicate(timeout=LIMIT_S)
    if not first or process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {notices.decode().strip()}")
    return first_s, time.monotonic() - start_s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    measure_command()  # warm
    first_s, end_s = zip(*(measure_command() for _ in range(args.rounds)), strict=True)
    rows = [("first token", str(spread(first_s))), ("end", str(spread(end_s)))]
    print(format_table(("from the start until", "s, median (quartiles)"), rows))
    median_s = spread(first_s).median
    report(
        "first_token",
        {"first_token_s": median_s},
        {"first_token_s": first_s, "end_s": end_s},
        is_default=has_defaults(parser, args),
    )
    return int(not median_s < BOUND_S)


if __name__ == "__main__":
    assert SMOLLM2.is_dir(), f"{SMOLLM2} is missing: run `make model`"
    sys.exit(main())
