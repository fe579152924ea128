"""`partwise probe`: measures this machine for the planner, or the link to another."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partwise.errors import ProbeError, UsageError

if TYPE_CHECKING:
    from partwise.cli.format import Cell
    from partwise.cluster import Host
    from partwise.probe.link import LinkFigures
    from partwise.probe.probing import Probe
    from partwise.probe.spread import Spread

NAME = "probe"
HELP = "measure this machine with the runners' own kernels, or the link to a server"
EXAMPLES = (
    "partwise probe --out host.toml --plot curve.png",
    "partwise probe --link 10.0.0.5:7070 --token-file token",
)

READ_HEADERS = ("working set MiB", "one core GB/s", "all cores GB/s")
RATE_HEADERS = (
    "precision",
    "rows",
    "one core GMAC/s",
    "all cores GMAC/s",
    "one server GMAC/s",
    "one core GB/s from memory",
    "all cores GB/s from memory",
    "one server GB/s from memory",
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
        print(json.dumps(describe_link(pair, found), indent=1))
        return 0
    print(write_link(pair, found.speed))
    print(
        f"note: {render_link_spread(found)}; in a cluster file name the two hosts or servers as"
        " it does",
        file=sys.stderr,
    )
    return 0


def _run_host(args: argparse.Namespace) -> int:
    from partwise.cli.progress import Progress
    from partwise.cluster.toml_file import write_host
    from partwise.probe.figures import explain_load
    from partwise.probe.plot import plot_bandwidth, require_matplotlib
    from partwise.probe.probing import probe_machine

    if args.plot is not None:
        require_matplotlib()
    with Progress() as progress:
        probe = probe_machine(args.store or Path(), progress.report)
    busy = explain_load(probe.figures, probe.others, probe.host.cores)
    if args.out is not None:
        _write(args.out, write_host(probe.host))
    if args.plot is not None:
        plot_bandwidth(probe.host, args.plot)
    print(json.dumps(describe(probe, busy), indent=1) if args.json else render(probe))
    print(f"note: {render_spread(probe)}", file=sys.stderr)
    if busy is not None:
        print(f"warning: {busy}", file=sys.stderr)
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ProbeError(
            f"cannot write the host file {path}: {exc.strerror}; give --out a path that you may"
            " write"
        ) from exc


def describe(probe: Probe, busy: str | None) -> dict[str, Any]:
    """The probe as a JSON document: the host, every figure with its spread, and who disturbed."""
    from partwise.cli.cluster import describe_host

    return {
        "host": describe_host(probe.host),
        "figures": [
            {"name": figure.name} | describe_spread(figure.value) for figure in probe.figures
        ],
        "load_average_1_min": probe.others.load_average_1_min,
        "busy_cores_before": probe.others.busy_cores,
        "is_busy": busy is not None,
        "busy_because": busy,
        "took_s": probe.took_s,
    }


def describe_spread(value: Spread) -> dict[str, float]:
    """A spread as a JSON object; its unit ends the name beside it."""
    return {"median": value.median, "low_quartile": value.low, "high_quartile": value.high}


def describe_link(pair: tuple[str, str], found: LinkFigures) -> dict[str, Any]:
    """The link as a JSON document."""
    return {
        "between": list(pair),
        "round_trip_s": describe_spread(found.round_trip_s),
        "bandwidth_bytes_per_s": describe_spread(found.bandwidth_bytes_per_s),
    }


def render(probe: Probe) -> str:
    """The host as tables for people."""
    from partwise.cli.format import GIB, MIB, format_table

    host = probe.host
    every = host.all_cores_bytes_per_s
    reads: list[tuple[Cell, ...]] = [
        (f"{x / MIB:g}", y / 1e9, every.at(x) / 1e9 if x >= every.x[0] else None)
        for x, y in zip(host.one_core_bytes_per_s.x, host.one_core_bytes_per_s.y, strict=True)
    ]
    store = (
        "not measured"
        if host.store_bytes_per_s is None
        else f"{host.store_bytes_per_s / 1e9:.2f} GB/s"
    )
    cache = "" if host.cache_bytes is None else f", {host.cache_bytes / MIB:g} MiB read fast"
    overheads = (
        f"a runner call {host.call_overhead_s * 1e6:.0f} us, a layer in it"
        f" {host.layer_overhead_s * 1e6:.0f} us, a row in a layer {host.row_overhead_s * 1e6:.0f}"
        f" us; the store's disk {store}"
    )
    lines = (
        f"{host.name}: {host.cores} cores, {host.memory_bytes / GIB:.1f} GiB of memory{cache}",
        format_table(READ_HEADERS, reads),
        format_table(RATE_HEADERS, list_rates(host)),
        overheads,
    )
    return "\n\n".join(lines)


def list_rates(host: Host) -> list[tuple[Cell, ...]]:
    """The rows of the table of rates."""
    rows: list[tuple[Cell, ...]] = []
    for precision, rates in host.rates.items():
        curves = [
            rates.one_core_macs_per_s,
            rates.all_cores_macs_per_s,
            rates.one_server_macs_per_s,
        ]
        if rates.streaming:
            widest = rates.streaming[-1]
            curves += [
                widest.one_core_bytes_per_s,
                widest.all_cores_bytes_per_s,
                widest.one_server_bytes_per_s,
            ]
        curves += [None] * (len(RATE_HEADERS) - 2 - len(curves))
        rows += [
            (precision, int(x), *(None if c is None else c.at(x) / 1e9 for c in curves))
            for x in rates.one_core_macs_per_s.x
        ]
    return rows


def render_spread(probe: Probe) -> str:
    """How far repeated measurements lay apart, in a line."""
    from partwise.probe.figures import find_typical_spread

    widest = max(
        (f for f in probe.figures if f.name.endswith("_per_s")), key=lambda f: f.value.relative
    )
    return (
        f"measured in {probe.took_s:.0f} s; quartiles lie {find_typical_spread(probe.figures):.1%}"
        f" apart typically, {widest.value.relative:.0%} at most ({widest.name}); load average"
        f" {probe.others.load_average_1_min:.1f} before"
    )


def render_link_spread(found: LinkFigures) -> str:
    """The quartiles of a link, in a line."""
    trip, bandwidth = found.round_trip_s, found.bandwidth_bytes_per_s
    return (
        f"quartiles: round trip {trip.low * 1e6:.0f} to {trip.high * 1e6:.0f} us, bandwidth"
        f" {bandwidth.low / 1e6:,.0f} to {bandwidth.high / 1e6:,.0f} MB/s"
    )
