"""The runner of acceptance lines, with lines of its own that take no time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accept import lines_1, lines_2, lines_3, lines_4
from accept.judges import Bound, Figures, Succeeds, TestsPass, run_tests
from accept.line import Line, Outcome, Status
from accept.main import main
from accept.runner import MAX_ATTEMPTS, try_line
from accept.state import State, name_commit

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / ".gitignore").write_text(".accept/\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*GIT, *words], cwd=root, check=True)
    return root


@pytest.fixture
def accept(repository: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Run lines; the exit code and the JSON line."""

    def run(lines: list[Line], *words: str) -> tuple[int, Any]:
        code = main(words, lines, repository)
        out = capsys.readouterr().out
        return code, json.loads(out.splitlines()[-1])

    return run


@pytest.mark.parametrize("words", [(), ("--only", "9.1"), ("--no-fresh-clone",)])
def test_only_a_whole_run_of_the_checkout_writes_its_results(
    words: tuple[str, ...],
    repository: Path,
    accept: Callable[..., tuple[int, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = repository / "results"
    monkeypatch.setattr("accept.main.ROOT", repository)
    monkeypatch.setattr("harness.RESULTS", results)
    lines = [
        Line(id=line_id, text="", command=python(""), judge=Succeeds(), limit_s=20)
        for line_id in ("9.1", "9.2")
    ]
    code, printed = accept(lines, *words)
    assert code == 0
    assert printed["num_met"] == (1 if "--only" in words else 2)
    assert (results / "accept.json").exists() == (not words)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def counting(path: Path, *figures: float, line_id: str = "9.1") -> Line:
    """A performance line: each run prints the next figure; at most 10 is good."""
    code = (
        f"import json, pathlib; p = pathlib.Path({str(path)!r});"
        "n = len(p.read_text()) if p.exists() else 0; p.write_text('x' * (n + 1));"
        f"print(json.dumps({{'took_us': {list(figures)}[n]}}))"
    )
    return Line(
        id=line_id, text="a figure", command=python(code), limit_s=20, is_performance=True,
        judge=Figures(bounds=(Bound("took_us", "<=", 10),)),
    )  # fmt: skip


def succeeding(code: str, **changes: Any) -> Line:
    values = {"id": "9.2", "text": "a command", "limit_s": 20.0, "judge": Succeeds()}
    return Line(**{**values, "command": python(code), **changes})


def test_a_finished_line_does_not_run_again_on_the_same_commit(accept, tmp_path: Path) -> None:
    line = counting(tmp_path / "runs", 1, 2, 3)
    assert [accept([line])[1]["lines"]["9.1"]["figures"] for _ in range(2)] == [[["1"]]] * 2
    assert accept([line], "--again")[1]["lines"]["9.1"]["figures"] == [["2"]]


def test_another_commit_or_an_edit_runs_lines_again(
    accept, tmp_path: Path, repository: Path
) -> None:
    line = counting(tmp_path / "runs", 1, 2, 3, 4)
    figures = [accept([line])[1]["lines"]["9.1"]["figures"]]
    (repository / "new.py").write_text("1\n")
    figures.append(accept([line])[1]["lines"]["9.1"]["figures"])
    (repository / "new.py").write_text("2\n")
    figures.append(accept([line])[1]["lines"]["9.1"]["figures"])
    subprocess.run([*GIT, "add", "."], cwd=repository, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "second"], cwd=repository, check=True)
    figures.append(accept([line])[1]["lines"]["9.1"]["figures"])
    assert figures == [[["1"]], [["2"]], [["3"]], [["4"]]]


def test_a_line_during_which_the_checkout_changed_is_not_recorded(
    tmp_path: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("accept.main.ROOT", repository)
    monkeypatch.setattr("harness.RESULTS", repository / "bench" / "results")
    commit, edit = name_commit(repository), repository / "edit.py"
    touch = f"import pathlib; pathlib.Path({str(edit)!r}).touch()"
    mark = tmp_path / "mark"
    lines = [
        succeeding("", id="9.1"),
        succeeding(touch),
        succeeding(f"import pathlib; pathlib.Path({str(mark)!r}).touch()", id="9.3"),
    ]
    assert main([], lines, repository) == 1
    out, err = capsys.readouterr()
    assert f"the checkout changed from {commit} to {commit}-changed-" in err
    assert "not recorded" in err
    assert out == ""
    assert [path.name for path in (repository / ".accept").glob("*.json")] == [f"{commit}.json"]
    assert list(State(repository / ".accept" / f"{commit}.json").records) == ["9.1"]
    assert not mark.exists()
    assert not (repository / "bench" / "results").exists()


def test_results_of_benchmarks_are_no_edit(repository: Path) -> None:
    before = name_commit(repository)
    (repository / "bench" / "results").mkdir(parents=True)
    (repository / "bench" / "results" / "hop.json").write_text("{}")
    assert name_commit(repository) == before
    (repository / "bench" / "hop.py").write_text("")
    assert name_commit(repository).startswith(f"{before}-changed-")


def test_a_stop_loses_only_the_line_that_ran(accept, repository: Path, tmp_path: Path) -> None:
    lines = [counting(tmp_path / "runs", 1, 2), succeeding("")]
    accept(lines, "--only", "9.1")
    assert list(State(repository / ".accept" / f"{name_commit(repository)}.json").records) == [
        "9.1"
    ]
    code, document = accept(lines)
    assert code == 0
    assert document["lines"]["9.1"]["figures"] == [["1"]]
    assert document["num_met"] == 2


def test_a_performance_line_is_repeated_twice_and_keeps_every_figure(
    accept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = accept([counting(tmp_path / "a", 30, 20, 10)])
    assert code == 0
    assert document["lines"]["9.1"]["figures"] == [["30"], ["20"], ["10"]]
    code, document = accept([counting(tmp_path / "b", 30, 20, 11, 1)], "--again")
    assert code == 1
    assert document["lines"]["9.1"]["status"] == "NOT MET"
    assert len(document["lines"]["9.1"]["figures"]) == MAX_ATTEMPTS == 3


def test_the_table_says_which_attempt_passed_and_what_the_others_showed(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([], [counting(tmp_path / "runs", 30, 9)], repository)
    out = capsys.readouterr().out
    assert "took_us <= 10  met at attempt 2" in out
    assert "9.1 attempt 1: NOT MET; 30; missed: took_us <= 10" in out


def test_other_lines_are_tried_once(accept) -> None:
    code, document = accept([succeeding("import sys; sys.exit('no such thing')")])
    assert code == 1
    assert document["lines"]["9.2"]["figures"] == [["exit code 1"]]
    assert document["lines"]["9.2"]["reason"] == "no such thing"


def test_a_line_over_its_limit_is_ended_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(1.2); pathlib.Path({str(mark)!r}).touch()"
    # Nobody waits 30 s: the line's limit of 0.5 s is what is tested.
    code = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(30)"
    )
    attempt = try_line(succeeding(code, limit_s=0.5), tmp_path / "attempt")
    assert attempt.status is Status.NOT_MET
    assert attempt.reason == "not done in 0.5 s"
    assert attempt.seconds < 1.2
    subprocess.run(["sleep", "1.2"], check=True)
    assert not mark.exists()


def test_what_a_finished_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(1); pathlib.Path({str(mark)!r}).touch()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
    attempt = try_line(succeeding(code), tmp_path / "attempt")
    assert attempt.status is Status.MET
    assert attempt.seconds < 1
    subprocess.run(["sleep", "1.2"], check=True)
    assert not mark.exists()


def test_a_fresh_clone_can_be_left_out_and_is_then_not_run(accept) -> None:
    line = succeeding("", is_fresh_clone=True)
    code, document = accept([line], "--no-fresh-clone")
    assert (code, document["lines"]["9.2"]["status"]) == (1, "not run")
    code, document = accept([line])
    assert (code, document["num_met"]) == (0, 1)
    assert accept([line], "--no-fresh-clone")[0] == 0


def test_a_line_that_could_not_run_is_tried_again(accept, tmp_path: Path) -> None:
    test = tmp_path / "test_root.py"
    test.write_text("import pytest\ndef test_one():\n    pytest.skip('this needs root')\n")
    line = succeeding("", command=(sys.executable, *run_tests(str(test))[1:]), judge=TestsPass())
    code, document = accept([line])
    assert (code, document["lines"]["9.2"]["status"]) == (1, "not run")
    assert document["lines"]["9.2"]["reason"] == "this needs root"
    test.write_text("def test_one():\n    pass\n")
    assert accept([line])[0] == 0


def test_an_unknown_line_is_refused(repository: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no line 9\.7"):
        main(["--only", "9.7"], [succeeding("")], repository)


def test_what_is_left_of_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"9.1": ')
    with pytest.raises(ValueError, match="delete it"):
        State(tmp_path / "state.json")


PASSED = '<testcase name="one"/>'
FAILED = '<testcase name="two"><failure message="no"/></testcase>'
BROKEN = '<testcase name="three"><error message="no"/></testcase>'
NEEDS_ROOT = '<testcase name="four"><skipped message="needs root and iproute2"/></testcase>'
SKIPPED = '<testcase name="five"><skipped message="not today"/></testcase>'


@pytest.mark.parametrize(
    ("cases", "exit_code", "status", "reason"),
    [
        ([PASSED], 0, Status.MET, ""),
        ([PASSED, FAILED], 1, Status.NOT_MET, "failed: two"),
        ([PASSED, BROKEN], 1, Status.NOT_MET, "failed: three"),
        ([], 5, Status.NOT_MET, "pytest exit code 5: no tests ran"),
        ([PASSED], 4, Status.NOT_MET, "pytest exit code 4: no tests ran"),
        ([NEEDS_ROOT], 0, Status.NOT_RUN, "needs root and iproute2"),
        ([NEEDS_ROOT, PASSED], 0, Status.NOT_RUN, "needs root and iproute2"),
        ([NEEDS_ROOT, FAILED], 1, Status.NOT_MET, "failed: two"),
        ([SKIPPED, PASSED], 0, Status.NOT_MET, "skipped: not today"),
        ([SKIPPED, NEEDS_ROOT], 0, Status.NOT_MET, "skipped: not today"),
    ],
)
def test_tests_must_have_run_and_passed(
    cases: list[str], exit_code: int, status: Status, reason: str, tmp_path: Path
) -> None:
    document = f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"
    (tmp_path / "tests.xml").write_text(document)
    verdict = TestsPass().decide(outcome(tmp_path, "no tests ran", exit_code))
    assert (verdict.status, verdict.reason) == (status, reason)


def test_fewer_tests_than_expected_do_not_do(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(f"<testsuite>{PASSED}</testsuite>")
    verdict = TestsPass(min_tests=2).decide(outcome(tmp_path, "", 0))
    assert (verdict.status, verdict.reason) == (Status.NOT_MET, "only 1 tests were found")


def test_tests_that_left_no_report_did_not_pass(tmp_path: Path) -> None:
    assert TestsPass().decide(outcome(tmp_path, "", 0)).status is Status.NOT_MET


def outcome(folder: Path, stdout: str, exit_code: int = 0) -> Outcome:
    (folder / "stdout.txt").write_text(stdout)
    (folder / "stderr.txt").write_text("")
    return Outcome(exit_code=exit_code, began_ns=0, folder=folder)


@pytest.mark.parametrize(
    ("bound", "value", "is_met"),
    [
        (Bound("x", "<", 9.0), 8.9, True),
        (Bound("x", "<", 9.0), 9.0, False),
        (Bound("x", "<=", 9.0), 9.0, True),
        (Bound("x", ">=", 1.7), 1.69, False),
        (Bound("x", ">=", 1.7), float("nan"), False),
        (Bound("x", "<=", 1.7), float("nan"), False),
        (Bound("x", "<=", 1), None, False),
        (Bound("x", "<=", 1), "0", False),
        (Bound("x", "<=", 1), True, False),
        (Bound("x", "==", True), True, True),
        (Bound("x", "==", True), False, False),
        (Bound("x", "==", True), None, False),
        (Bound("x", "==", [1, 2]), [1, 2], True),
        (Bound("x", "==", [1, 2]), [1], False),
    ],
)
def test_a_figure_is_met_within_its_bound_only(bound: Bound, value: Any, is_met: bool) -> None:
    assert bound.is_met({"x": value}) is is_met
    assert bound.is_met({}) is False


@pytest.mark.parametrize("stdout", ["", "a table", "[1]", '{"x": 1}\nno JSON'])
def test_a_command_without_figures_is_not_met(stdout: str, tmp_path: Path) -> None:
    verdict = Figures(bounds=(Bound("x", "<=", 1),)).decide(outcome(tmp_path, stdout))
    assert verdict.status is Status.NOT_MET
    assert verdict.reason.startswith("no figures, exit code 0")


def test_good_figures_of_a_failed_command_are_not_met(tmp_path: Path) -> None:
    verdict = Figures(bounds=(Bound("x", "<=", 1),)).decide(outcome(tmp_path, '{"x": 1}', 1))
    assert (verdict.status, verdict.figures) == (Status.NOT_MET, ("1",))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (None, "hop.json was not written"),
        ({"x": 1}, "hop.json does not describe the machine"),
        ({"x": 2, "machine": {"cpu": "any"}}, "hop.json differs in x"),
        ({"x": 1, "machine": {"cpu": "any"}}, ""),
    ],
)
def test_results_must_be_written_with_the_machine(
    written: dict[str, Any] | None, reason: str, tmp_path: Path
) -> None:
    if written is not None:
        (tmp_path / "hop.json").write_text(json.dumps(written, indent=1))
    judge = Figures(bounds=(Bound("x", "<=", 1),), results="hop", results_folder=tmp_path)
    verdict = judge.decide(outcome(tmp_path, 'a table\n{"x": 1}'))
    assert verdict.reason == reason
    assert verdict.status is (Status.NOT_MET if reason else Status.MET)


def test_results_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "hop.json"
    path.write_text('{"x": 1, "machine": {"cpu": "any"}}')
    done = outcome(tmp_path, '{"x": 1}')
    later = Outcome(exit_code=0, began_ns=path.stat().st_mtime_ns + 1, folder=done.folder)
    judge = Figures(bounds=(Bound("x", "<=", 1),), results="hop", results_folder=tmp_path)
    assert judge.decide(later).reason == "hop.json was not written"


@pytest.mark.parametrize("module", [lines_1, lines_2, lines_3, lines_4])
def test_lines_name_tests_and_scripts_that_exist(module: Any) -> None:
    root = Path(lines_1.__file__).parent.parent.parent
    ids = [line.id for line in module.LINES]
    assert len(set(ids)) == len(ids) >= 10
    for line in module.LINES:
        for word in line.command:
            path, _, test = word.partition("::")
            if path.startswith(("tests/", "bench/")):
                assert (root / path).exists(), word
                assert not test or f"def {test}(" in (root / path).read_text(), word
