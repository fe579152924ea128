"""The command line: which lines to run, the table, the JSON line, the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from accept import lines_1, lines_2, lines_3, lines_4
from accept.line import Line, Record, Status, not_run
from accept.runner import run_line
from accept.state import State, name_commit
from harness import ROOT, report
from partwise.cli.format import format_table

LINES = (*lines_1.LINES, *lines_2.LINES, *lines_3.LINES, *lines_4.LINES)
HEADERS = ("id", "line", "figure", "bound", "status", "s")


def main(
    words: Sequence[str] | None = None, lines: Sequence[Line] = LINES, root: Path = ROOT
) -> int:
    """Run the chosen lines of ``lines``; 1 unless all of them are met."""
    args = parse(words)
    chosen = choose(lines, args.only)
    commit = name_commit(root)
    folder = root / ".accept"
    state = State(folder / f"{commit}.json")
    if args.list:
        print_table(chosen, {line.id: find(state, line) for line in chosen})
        return 0
    try:
        records = {line.id: settle(line, state, args, root) for line in chosen}
        check_unchanged(root, state)
    except CheckoutChanged as exc:
        print(f"accept.py: {exc}", file=sys.stderr)
        return 1
    print_table(chosen, records)
    print_reasons(records, folder / commit)
    is_whole = len(chosen) == len(lines) and not args.no_fresh_clone and root == ROOT
    finish(commit, records, is_whole=is_whole)
    return int(any(record.last.status is not Status.MET for record in records.values()))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="accept.py", description="Run what issues must show.")
    add = parser.add_argument
    add("--only", metavar="ID", action="append", default=[], help="this line; may be repeated")
    add("--again", action="store_true", help="also lines that this commit finished before")
    add("--list", action="store_true", help="show how the lines stand and run nothing")
    add("--no-fresh-clone", action="store_true", help="leave out lines that clone and set up")
    return parser.parse_args(words)


def choose(lines: Sequence[Line], only: Sequence[str]) -> list[Line]:
    """The lines named by ``only``, or all."""
    known = [line.id for line in lines]
    assert len(set(known)) == len(known), "two lines have one id"
    unknown = [line_id for line_id in only if line_id not in known]
    if unknown:
        sys.exit(f"accept.py: there is no line {', '.join(unknown)}: see --list")
    return [line for line in lines if not only or line.id in only]


def find(state: State, line: Line) -> Record:
    """What is known about ``line``."""
    return state.records.get(line.id) or not_run("it was not tried on this commit")


def tell(record: Record) -> str:
    """Its status, and at which attempt it was met if not at once."""
    count = len(record.attempts)
    if count == 1:
        return str(record.last.status)
    if record.last.status is Status.MET:
        return f"met at attempt {count}"
    return f"{record.last.status} in {count} attempts"


class CheckoutChanged(Exception):
    """What ran was not the commit, or the commit with edits, that the run began with."""


def check_unchanged(root: Path, state: State) -> None:
    """Raise CheckoutChanged unless ``state`` is still that of the checkout at ``root``."""
    began, now = state.path.stem, name_commit(root)
    if now != began:
        raise CheckoutChanged(
            f"the checkout changed from {began} to {now} while lines ran: the last one is not"
            " recorded and no results are written; run it again"
        )


def settle(line: Line, state: State, args: argparse.Namespace, root: Path) -> Record:
    """What an earlier run found out about ``line``, or else what running it shows.

    Raises:
        CheckoutChanged: somebody edited the checkout meanwhile; nothing is remembered.
    """
    known = state.records.get(line.id)
    if known is not None and known.is_finished and not args.again:
        return known
    if line.is_fresh_clone and args.no_fresh_clone:
        return not_run("--no-fresh-clone was given")
    print(f"{line.id} {line.text} (at most {line.limit_s:g} s)", file=sys.stderr)
    record = run_line(line, state.path.with_suffix(""))
    check_unchanged(root, state)
    state.put(line.id, record)
    print(f"     {tell(record)} {record.last.reason}".rstrip(), file=sys.stderr)
    return record


def print_table(lines: Sequence[Line], records: Mapping[str, Record]) -> None:
    """One row a bound, with the figures of the attempt that decides."""
    rows: list[tuple[str, ...]] = []
    for line in lines:
        record = records[line.id]
        ends = (tell(record), f"{record.seconds:.0f}")
        pairs = zip_longest(record.last.figures, line.judge.bounds_text, fillvalue="")
        for number, pair in enumerate(pairs):
            rows.append(("", "", *pair, "", "") if number else (line.id, line.text, *pair, *ends))
    print(format_table(HEADERS, rows))


def print_reasons(records: Mapping[str, Record], folder: Path) -> None:
    """Why lines are not met or not run, and every attempt of those that needed several."""
    for line_id, record in records.items():
        for number, attempt in enumerate(record.attempts, 1):
            if attempt.status is Status.NOT_RUN:
                print(f"{line_id} not run: {attempt.reason}")
            elif attempt.status is Status.NOT_MET or len(record.attempts) > 1:
                words = [f"{line_id} attempt {number}: {attempt.status}"]
                words += [text for text in (", ".join(attempt.figures), attempt.reason) if text]
                print("; ".join([*words, f"output in {folder / f'{line_id}-{number}'}"]))


def finish(commit: str, records: Mapping[str, Record], *, is_whole: bool) -> None:
    """The JSON line; a whole run also writes it to bench/results."""
    figures = {
        "commit": commit,
        "num_lines": len(records),
        **{
            f"num_{key}": sum(r.last.status is status for r in records.values())
            for key, status in (
                ("met", Status.MET),
                ("not_met", Status.NOT_MET),
                ("not_run", Status.NOT_RUN),
            )
        },
        "seconds": round(sum(r.seconds for r in records.values()), 1),
        "lines": {line_id: record.describe() for line_id, record in records.items()},
    }
    report("accept", figures, is_default=is_whole)
