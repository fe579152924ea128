"""`partwise probe`: measures this machine for the planner, or the link to another."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

from partwise.errors import ProbeError, UsageError

NAME = "probe"
HELP = "measure this machine with the runners' own kernels, or the link to a server"
EXAMPLES = (
    "partwise probe --out host.toml --plot curve.png",
    "partwise probe --link 10.0.0.5:7070 --token-file token",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise probe``."""
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="write the host file that --host takes elsewhere"
    )
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help="draw the read bandwidth (needs partwise[plot])"
    )
    parser.add_argument(
        "--store",
        metavar="DIR",
        type=Path,
        help="a folder on the disk that holds models (default: the current folder)",
    )
    parser.add_argument(
        "--link",
        metavar="HOST:PORT",
        help="measure the way to this `partwise server` instead, which must be idle",
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="its token, for --link")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    if args.link is not None:
        return _run_link(args)
    if args.token_file is not None:
        raise UsageError("--token-file is for --link: give both, or neither")
    return _run_host(args)


def _run_link(args: argparse.Namespace) -> int:
    from partwise.cli.format import format_json
    from partwise.cli.probed import describe_link, render_link_spread
    from partwise.cluster.toml_file import write_link
    from partwise.probe.link import measure_link
    from partwise.probe.machine import find_name
    from partwise.remote.authenticate import read_token
    from partwise.remote.tcp import TcpTransport
    from partwise.remote.transport import parse_address

    for option in ("out", "plot", "store"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option} is for measuring this machine: leave it out with --link")
    if args.token_file is None:
        raise UsageError("--link needs --token-file, the token that the server was given")
    address = parse_address(args.link)
    found = measure_link(TcpTransport(read_token(args.token_file)), address)
    pair = find_name(), str(address)
    if args.json:
        print(format_json(describe_link(pair, found)))
        return 0
    print(write_link(pair, found.speed))
    print(
        f"note: {render_link_spread(found)}; in a cluster file name the two hosts or servers as"
        " it does",
        file=sys.stderr,
    )
    return 0


def _run_host(args: argparse.Namespace) -> int:
    from partwise.cli.format import format_json
    from partwise.cli.probed import describe, render, render_spread
    from partwise.cli.progress import Progress
    from partwise.cluster.toml_file import write_host
    from partwise.probe.figures import explain_load
    from partwise.probe.plot import plot_bandwidth
    from partwise.probe.probing import probe_machine

    check_paths(args)
    with Progress() as progress:
        probe = probe_machine(args.store or Path(), progress.report)
    busy = explain_load(probe.figures, probe.others, probe.host.cores)
    # First: what was measured is not lost where a file cannot be written after all.
    print(format_json(describe(probe, busy)) if args.json else render(probe), flush=True)
    print(f"note: {render_spread(probe)}", file=sys.stderr)
    if busy is not None:
        print(f"warning: {busy}", file=sys.stderr)
    if args.out is not None:
        _write(args.out, write_host(probe.host))
    if args.plot is not None:
        plot_bandwidth(probe.host, args.plot)
    return 0


def check_paths(args: argparse.Namespace) -> None:
    """Refuse before a long measurement what could not be written after it.

    Raises:
        UsageError: the plot cannot be drawn, or not in the format that its path names.
        ProbeError: a file cannot be written.
    """
    from partwise.probe.plot import check_ending, require_matplotlib

    if args.plot is not None:
        require_matplotlib()
        check_ending(args.plot)
    for what, option, path in (("host file", "--out", args.out), ("plot", "--plot", args.plot)):
        reason = None if path is None else _find_obstacle(path)
        if reason is not None:
            raise _cannot_write(what, option, path, reason)


def _find_obstacle(path: Path) -> str | None:
    """Why a file cannot be written, without touching it; None where nothing says so."""
    try:
        if path.is_dir():
            return os.strerror(errno.EISDIR)
        path.parent.stat()
        target = path if path.exists() else path.parent
    except OSError as exc:
        return exc.strerror
    return None if os.access(target, os.W_OK) else os.strerror(errno.EACCES)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise _cannot_write("host file", "--out", path, exc.strerror) from exc


def _cannot_write(what: str, option: str, path: Path, reason: str | None) -> ProbeError:
    return ProbeError(
        f"cannot write the {what} {path}: {reason}; give {option} a path that you may write"
    )
