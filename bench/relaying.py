"""A relay (`relay.py`) in a process of its own, whose line changes while it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from relay import OK

STOP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayProcess:
    """``addresses`` ("HOST:PORT") are where its routes listen, in their order."""

    addresses: tuple[str, ...]
    process: subprocess.Popen[str]

    def change(self, *, delay_s: float, mbit_per_s: float | None) -> None:
        """From now on what comes in takes so long, at so many bits a second (None: any)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(1e3 * delay_s, mbit_per_s or 0.0, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if answer != OK:
            raise OSError(f"the relay answered {answer!r}: it ended")


@contextmanager
def run_relay(
    routes: Sequence[str], *, reverse: Sequence[str] = (), before: Sequence[str] = ()
) -> Iterator[RelayProcess]:
    """A relay of ``routes`` ("HOST:PORT=HOST:PORT") and others whose way is the ``reverse``, until
    the block ends. ``before`` are the words of a command that starts it elsewhere."""
    words = [str(Path(__file__).with_name("relay.py")), *routes]
    words += [word for route in reverse for word in ("--reverse", route)]
    process = subprocess.Popen(
        [*before, sys.executable, *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        count = len(routes) + len(reverse)
        addresses = tuple(process.stdout.readline().strip() for _ in range(count))
        if not all(addresses):
            raise OSError(f"the relay of {', '.join((*routes, *reverse))} did not start")
        yield RelayProcess(addresses=addresses, process=process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
