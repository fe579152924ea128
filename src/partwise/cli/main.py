"""`partwise`: finds the command, runs it, and turns every failure into one line.

Results go to stdout, notices and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage,
130 interrupted, 141 the reader of stdout went away. What a command does is in its own file.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from partwise.errors import PartwiseError, UsageError
from partwise.version import __version__

COMMAND_MODULES = (
    "generate",
    "plan",
    "locate",
    "model",
    "compress",
    "cluster",
    "probe",
    "server",
    "import_model",
)
"""Files of this folder that hold a command, in the order in which help lists them."""

SUMMARY = "Deploy one neural network in parts over several servers, and run it there."
EXAMPLES = (
    'partwise generate models/SmolLM2-135M-Instruct "What is the capital of France?" --parts 3',
    "partwise plan models/SmolLM2-135M-Instruct --parts 3",
)

EXIT_FAILED, EXIT_USAGE = 1, 2
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 128 + 2, 128 + 13  # as a shell reports SIGINT and SIGPIPE


class Command(Protocol):
    """What a module of this folder exposes to be a command."""

    NAME: str
    HELP: str
    EXAMPLES: tuple[str, str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the command's work; the exit code."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose help is one line, two examples and the options, and whose errors raise."""

    summary = SUMMARY
    examples = EXAMPLES

    def format_help(self) -> str:
        """One line, usage, examples, options."""
        usage = self.format_usage()
        options = super().format_help().removeprefix(usage)
        examples = "".join(f"  {example}\n" for example in self.examples)
        return f"{self.summary}\n\n{usage}\nexamples:\n{examples}{options}"

    def error(self, message: str) -> NoReturn:
        """Report wrong usage.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}: see `{self.prog} --help`")


def load_commands() -> list[Command]:
    """The commands of this installation; a file that does not exist is no command."""
    commands: list[Command] = []
    for name in COMMAND_MODULES:
        module_name = f"partwise.cli.{name}"
        try:
            commands.append(cast("Command", importlib.import_module(module_name)))
        except ModuleNotFoundError as exc:
            if exc.name != module_name:
                raise
    return commands


def build_parser(commands: Sequence[Command]) -> CommandParser:
    """The parser of the whole command line."""
    parser = CommandParser(prog="partwise", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"partwise {__version__}")
    add_debug(parser)
    children = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for command in commands:
        child = children.add_parser(command.NAME, help=command.HELP, allow_abbrev=False)
        child.summary, child.examples = command.HELP, command.EXAMPLES
        command.add_arguments(child)
        add_debug(child)
        child.set_defaults(run=command.run)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Accept ``--debug`` before the command and after it.

    Nothing is stored: `main` looks for the word itself, because parsing may be what fails.
    """
    help_text = "show the traceback of an error"
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=help_text)


def describe_failure(exc: BaseException) -> tuple[str, int]:
    """The line for the user and the exit code."""
    if isinstance(exc, UsageError):
        return str(exc), EXIT_USAGE
    if isinstance(exc, PartwiseError):
        return str(exc), EXIT_FAILED
    if isinstance(exc, KeyboardInterrupt):
        return "interrupted", EXIT_INTERRUPTED
    detail = f"{type(exc).__name__}: {exc}"
    return f"unexpected {detail}: repeat with --debug and report the traceback", EXIT_FAILED


def report_failure(exc: BaseException, *, debug: bool) -> int:
    """Tell stderr what went wrong; the exit code."""
    if debug:
        traceback.print_exception(exc)
    line, code = describe_failure(exc)
    print(f"partwise: {' '.join(line.split())}", file=sys.stderr)
    return code


def abandon_stdout() -> int:
    """Let the interpreter's own last flush find no closed pipe; the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: this process's); the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if sys.stdout is None:  # as `>&-` leaves it
            raise UsageError("stdout is closed: leave it open, or send it to /dev/null")
        args = build_parser(load_commands()).parse_args(words)
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        return abandon_stdout()
    # The border: nothing passes it untranslated.
    except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001
        return report_failure(exc, debug="--debug" in words)
    return code


if __name__ == "__main__":
    sys.exit(main())
