"""Servers that listen, as `partwise server` starts them, each on a processor of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server runs: on which processor, and on which host of `namespaces.py` (None: on
    this machine itself)."""

    cpu: int
    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartServer:
    """``address`` is where it listens."""

    address: str
    pid: int


@contextmanager
def start_server(place: Place, where: str, token_file: Path) -> Iterator[PartServer]:
    """A server that listens at ``where`` ("HOST:PORT", port 0: any) until the block ends."""
    before = [] if place.host is None else ["ip", "netns", "exec", place.host]
    process = subprocess.Popen(
        [*before, "taskset", "--cpu-list", str(place.cpu), sys.executable, "-m",
         "partwise.cli.main", "server", "--listen", where, "--token-file", str(token_file)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"listens on (\S+)", line)
        if found is None:
            raise OSError(f"the server at {where} did not start: {line}{process.stderr.read()}")
        yield PartServer(address=found[1], pid=process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=STOP_S)
