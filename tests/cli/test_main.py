"""The frame of the command line: help, exit codes, one line per failure."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from partwise.cli import main as main_module
from partwise.cli.main import Command, load_commands, main
from partwise.errors import ModelError, UsageError
from partwise.version import __version__

HEAVY = ("numpy", "torch", "transformers", "tokenizers", "safetensors", "tqdm", "asyncio")
COMMANDS = load_commands()


def command_raising(error: BaseException | None) -> SimpleNamespace:
    """A command called ``fake`` that takes an optional number and raises ``error``."""

    def run(args: argparse.Namespace) -> int:
        if error is not None:
            raise error
        return 0

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--number", type=int)

    return SimpleNamespace(
        NAME="fake", HELP="a fake", EXAMPLES=("a", "b"), add_arguments=add_arguments, run=run
    )


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the fake command; its exit code and what it wrote to stderr."""

    def run(error: BaseException | None, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(main_module, "load_commands", lambda: [command_raising(error)])
        code = main(words or ["fake"])
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    return run


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_help_lists_every_command_with_its_line_and_imports_nothing_heavy() -> None:
    out = run_python(
        "import atexit, sys\n"
        f"atexit.register(lambda: print('heavy:', [m for m in {HEAVY} if m in sys.modules]))\n"
        "from partwise.cli.main import main\n"
        "main(['--help'])"
    )
    assert "heavy: []" in out
    for command in COMMANDS:
        assert f" {command.NAME} " in out
        assert command.HELP.split()[0] in out


@pytest.mark.parametrize("option", ["--help", "--version"])
@pytest.mark.quiet
def test_help_and_version_answer_in_half_a_second(option: str) -> None:
    durations_s = []
    for _ in range(3):  # the best of three: other work on this machine is not our duration
        start_s = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "partwise.cli.main", option], check=True, capture_output=True
        )
        durations_s.append(time.perf_counter() - start_s)
    assert min(durations_s) < 0.5


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"partwise {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.NAME)
def test_help_of_a_command_is_one_line_two_examples_and_options(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command.NAME, "--help"])
    assert exit_.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == command.HELP
    assert lines[2].startswith(f"usage: partwise {command.NAME} ")
    at = lines.index("examples:")
    assert lines[at + 1 : at + 3] == [f"  {example}" for example in command.EXAMPLES]
    assert all(example.startswith(f"partwise {command.NAME} ") for example in command.EXAMPLES)
    assert "  --debug " in "\n".join(lines[at + 3 :])


def test_a_command_whose_file_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module, "COMMAND_MODULES", ("model", "no_such_command"))
    assert [command.NAME for command in load_commands()] == ["model"]


def test_a_command_that_lacks_a_library_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> object:
        raise ModuleNotFoundError("No module named 'msgspec'", name="msgspec")

    monkeypatch.setattr(main_module.importlib, "import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="msgspec"):
        load_commands()


def test_success_is_exit_code_0_and_silence(fail) -> None:
    assert fail(None) == (0, "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("no\nmodel here"), 1, "partwise: no model here\n"),
        (UsageError("--raw contradicts --chat"), 2, "partwise: --raw contradicts --chat\n"),
        (KeyboardInterrupt(), 130, "partwise: interrupted\n"),
    ],
)
def test_a_failure_is_one_line_and_its_exit_code(
    error: BaseException, code: int, line: str, fail
) -> None:
    assert fail(error) == (code, line)


def test_an_unexpected_error_is_one_line_that_asks_for_a_report(fail) -> None:
    code, err = fail(ZeroDivisionError("by zero"))
    assert code == 1
    assert err.count("\n") == 1
    assert "ZeroDivisionError: by zero" in err
    assert "--debug" in err


@pytest.mark.parametrize("words", [("--debug", "fake"), ("fake", "--debug")])
def test_debug_shows_the_traceback_before_or_after_the_command(words: list[str], fail) -> None:
    code, err = fail(ModelError("no model"), *words)
    assert code == 1
    assert err.startswith("Traceback")
    assert err.endswith("partwise: no model\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fake", "--number", "x"), "invalid int value: 'x': see `partwise fake --help`"),
        (("fake", "--nonsense"), "--nonsense"),
        (("nonsense",), "nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: tuple[str, ...], says: str, fail) -> None:
    code, err = fail(None, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("partwise: ")
    assert says in err


# Few characters are refused at the last flush, many already when they are printed.
# -E: stdout may be unbuffered by the environment of the tests.
@pytest.mark.parametrize("num_characters", [1, 100_000])
def test_a_reader_that_leaves_early_is_no_error(num_characters: int) -> None:
    program = (
        "import sys, time, types\n"
        "from partwise.cli import main as m\n"
        "def run(args):\n"
        "    time.sleep(0.2)\n"
        f"    print('x' * {num_characters})\n"
        "    return 0\n"
        "fake = types.SimpleNamespace(NAME='fake', HELP='', EXAMPLES=(), run=run,"
        " add_arguments=lambda p: None)\n"
        "m.load_commands = lambda: [fake]\n"
        "sys.exit(m.main(['fake']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-E", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(timeout=20) == 141


@pytest.mark.parametrize("words", ["model nowhere", "--help"])
def test_a_closed_stdout_is_told_in_one_line(words: str) -> None:
    command = f"{sys.executable} -m partwise.cli.main {words} >&-"
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == ("partwise: stdout is closed: leave it open, or send it to /dev/null\n")
