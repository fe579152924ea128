"""Runs one line: its command with a limit, in a session of its own, as often as allowed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from accept.line import Attempt, Line, Outcome, Record, Status, Verdict
from harness import ROOT

MAX_ATTEMPTS = 3
"""At a performance line: it is repeated at most twice."""
END_S = 10.0
FOREIGN_VARIABLES = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PROMPT", "VIRTUAL_ENV")
"""What a surrounding make or shell would change a line with."""


def run_line(line: Line, folder: Path) -> Record:
    """Try ``line`` until it is met or no attempt is left; output goes under ``folder``."""
    attempts: list[Attempt] = []
    for number in range(1, (MAX_ATTEMPTS if line.is_performance else 1) + 1):
        attempts.append(try_line(line, folder / f"{line.id}-{number}"))
        if attempts[-1].status is not Status.NOT_MET:
            break
    return Record(attempts=tuple(attempts))


def try_line(line: Line, folder: Path) -> Attempt:
    """Run its command once and decide."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [word.replace("{folder}", str(folder)) for word in line.command]
    # The results' modification times come from a clock that may lag by a tick.
    began_ns, start_s = time.time_ns() - 100_000_000, time.monotonic()
    exit_code = run_command(command, folder, line.limit_s)
    seconds = time.monotonic() - start_s
    if exit_code is None:
        verdict = Verdict(status=Status.NOT_MET, reason=f"not done in {line.limit_s:g} s")
    else:
        outcome = Outcome(exit_code=exit_code, began_ns=began_ns, folder=folder)
        verdict = line.judge.decide(outcome)
    return Attempt(
        status=verdict.status, figures=verdict.figures, reason=verdict.reason, seconds=seconds
    )


def run_command(command: list[str], folder: Path, limit_s: float) -> int | None:
    """Its exit code; None if it did not end in time."""
    with (folder / "stdout.txt").open("wb") as out, (folder / "stderr.txt").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the command, if it still runs, and what it left in its session."""
    # Nobody may be left of the group, or only those that the command did not end.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment() -> dict[str, str]:
    """Ours, with this interpreter's folder first on the path."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    folder = str(Path(sys.executable).parent)
    return {**kept, "PATH": f"{folder}{os.pathsep}{kept.get('PATH', os.defpath)}"}
