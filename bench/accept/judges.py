"""How a line is decided: by its exit code, by figures within bounds, or by its tests."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from accept.line import Outcome, Status, Verdict
from harness import RESULTS

COMPARE = {"<": operator.lt, "<=": operator.le, ">=": operator.ge, "==": operator.eq}
MAY_BE_MISSING = re.compile(r"\broot\b|\biproute2\b|network namespaces")
"""What a test may be skipped for: the lines that need it ask for it only where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeds:
    """The command ends with exit code 0."""

    bound: str = "exit code 0"

    @property
    def bounds_text(self) -> tuple[str, ...]:
        """See `Judge.bounds_text`."""
        return (self.bound,)

    def decide(self, outcome: Outcome) -> Verdict:
        """See `Judge.decide`."""
        figures = (f"exit code {outcome.exit_code}",)
        if outcome.exit_code:
            return Verdict(status=Status.NOT_MET, figures=figures, reason=outcome.last_words)
        return Verdict(status=Status.MET, figures=figures)


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure's key, "<", "<=", ">=" or "==", and its limit."""

    key: str
    relation: str
    limit: Any

    def is_met(self, figures: Mapping[str, Any]) -> bool:
        """Whether the figure is there and within the bound."""
        value = figures.get(self.key)
        if type(value) is bool or not isinstance(value, int | float):
            return bool(self.relation == "==" and value is not None and value == self.limit)
        return bool(COMPARE[self.relation](value, self.limit))

    def __str__(self) -> str:
        return f"{self.key} {self.relation} {format_value(self.limit)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The command succeeds, and the last line of its stdout is JSON with figures in bounds.

    With ``results`` it must also have written them to bench/results/NAME.json, with the
    machine's description.
    """

    bounds: Sequence[Bound]
    results: str = ""
    results_folder: Path = RESULTS

    @property
    def bounds_text(self) -> tuple[str, ...]:
        """See `Judge.bounds_text`."""
        return tuple(map(str, self.bounds))

    def decide(self, outcome: Outcome) -> Verdict:
        """See `Judge.decide`."""
        figures = last_json(outcome.stdout)
        texts = tuple(format_value(figures.get(bound.key)) for bound in self.bounds)
        missed = [str(bound) for bound in self.bounds if not bound.is_met(figures)]
        # A bench that misses a bound also exits 1: the bound says more.
        reason = "missed: " + ", ".join(missed) if missed else ""
        if not figures:
            texts, reason = (), f"no figures, exit code {outcome.exit_code}: {outcome.last_words}"
        elif not reason and outcome.exit_code:
            reason = f"exit code {outcome.exit_code}: {outcome.last_words}"
        reason = reason or self._check_results(outcome, figures)
        status = Status.NOT_MET if reason else Status.MET
        return Verdict(status=status, figures=texts, reason=reason)

    def _check_results(self, outcome: Outcome, figures: Mapping[str, Any]) -> str:
        """What is wrong with the results file, if anything."""
        if not self.results:
            return ""
        path = self.results_folder / f"{self.results}.json"
        if not path.is_file() or path.stat().st_mtime_ns < outcome.began_ns:
            return f"{path.name} was not written"
        written = last_json(json.dumps(json.loads(path.read_text())))
        if not written.get("machine"):
            return f"{path.name} does not describe the machine"
        differing = [key for key, value in figures.items() if written.get(key) != value]
        return f"{path.name} differs in {', '.join(differing)}" if differing else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestsPass:
    """pytest ran at least ``min_tests`` tests, all passed and none was skipped.

    A test that was skipped because this machine lacks what it may lack makes the line "not
    run" instead.
    """

    __test__ = False

    min_tests: int = 1

    @property
    def bounds_text(self) -> tuple[str, ...]:
        """See `Judge.bounds_text`."""
        count = f"{self.min_tests} or more tests" if self.min_tests > 1 else "the test"
        return (f"passed: {count}",)

    def decide(self, outcome: Outcome) -> Verdict:
        """See `Judge.decide`."""
        path = outcome.folder / "tests.xml"
        cases = ET.parse(path).findall(".//testcase") if path.is_file() else []
        failed = [c.get("name", "") for c in cases if c.find("failure") is not None]
        failed += [c.get("name", "") for c in cases if c.find("error") is not None]
        skips = [s.get("message", "") for c in cases for s in c.findall("skipped")]
        figures = (f"{len(cases) - len(failed) - len(skips)} passed",)
        missing = [reason for reason in skips if MAY_BE_MISSING.search(reason)]
        if failed:
            reason = "failed: " + ", ".join(dict.fromkeys(failed))
        elif len(missing) < len(skips):
            reason = "skipped: " + next(reason for reason in skips if reason not in missing)
        elif outcome.exit_code or not cases:
            reason = f"pytest exit code {outcome.exit_code}: {outcome.last_words}"
        elif missing:
            return Verdict(status=Status.NOT_RUN, figures=figures, reason=missing[0])
        else:
            reason = "" if len(cases) >= self.min_tests else f"only {len(cases)} tests were found"
        status = Status.NOT_MET if reason else Status.MET
        return Verdict(status=status, figures=figures, reason=reason)


def run_tests(*nodes: str) -> tuple[str, ...]:
    """The command that runs these tests for `TestsPass`."""
    options = ("-q", "-p", "no:cacheprovider", "--junitxml={folder}/tests.xml")
    return ("python", "-m", "pytest", *options, *nodes)


def last_json(text: str) -> dict[str, Any]:
    """The JSON object in the last line of ``text``; empty if there is none."""
    lines = text.strip().splitlines()
    try:
        document = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def format_value(value: Any) -> str:
    """A figure in a few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace(" ", "")
