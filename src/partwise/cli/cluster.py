"""`partwise cluster show`: a cluster from its file or preset, as a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partwise.cluster import Cluster, Curve, Host, LinkSpeed, Rates

NAME = "cluster"
HELP = "describe the hosts, servers and links of a cluster file or a preset"
EXAMPLES = ("partwise cluster show home", "partwise cluster show lab.toml --json")
TYPICAL = (
    "typical figures, not this machine's: `partwise probe --out host.toml`, then --host host.toml"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``partwise cluster``."""
    parser.add_argument("action", choices=("show",), help="show: print the cluster")
    parser.add_argument(
        "cluster",
        metavar="FILE|PRESET",
        help="a cluster file, or local-N, seed-h100-50mb, seed-h100-32mb, epyc-8, home",
    )
    parser.add_argument(
        "--host", metavar="FILE", type=Path, help="the machine that local-N cuts, as probed"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document")
    form.add_argument("--toml", action="store_true", help="print a cluster file")


def run(args: argparse.Namespace) -> int:
    """Print a cluster."""
    from partwise.cli.cluster_tables import render
    from partwise.cli.format import format_json
    from partwise.cluster.toml_file import write_cluster

    cluster = open_cluster(args.cluster, host_file=args.host)
    if args.toml:
        print(write_cluster(cluster), end="")
    else:
        print(format_json(describe(cluster)) if args.json else render(cluster))
    return 0


def open_cluster(name: str, *, host_file: Path | None = None) -> Cluster:
    """The cluster of a file, or of a preset where no file has that name.

    A note says where ``local-N`` is not cut from a machine that was measured.

    Raises:
        ClusterError: it is neither, or the file describes no cluster.
    """
    from partwise.cluster.checks import shorten
    from partwise.cluster.presets import LOCAL, PRESETS, preset
    from partwise.cluster.toml_file import read_cluster, read_host
    from partwise.errors import ClusterError

    if _is_file(name):
        if host_file is not None:
            raise ClusterError(f"{name} has its own hosts: give --host to local-N alone")
        return read_cluster(Path(name))
    path = Path(name)
    if not name or path.suffix or len(path.parts) > 1:
        what = f"no cluster file {shorten(name)}" if name else "no cluster without a name"
        raise ClusterError(f"there is {what}: give another, or a preset ({', '.join(PRESETS)})")
    if host_file is not None:
        return preset(name, host=read_host(host_file))
    cluster = preset(name)
    if LOCAL.fullmatch(name):
        print(f"note: {name} has {TYPICAL}", file=sys.stderr)
    return cluster


def _is_file(name: str) -> bool:
    """Whether a file, which may be a pipe, has that name; a folder is none."""
    try:
        return Path(name).exists() and not Path(name).is_dir()
    except OSError:  # a name longer than a file's may be
        return False


def describe(cluster: Cluster) -> dict[str, Any]:
    """The cluster as a JSON document."""
    return {
        "hosts": [describe_host(host) for host in cluster.hosts],
        "servers": [
            {
                "name": server.name,
                "host": server.host,
                "threads": server.threads,
                "memory_bytes": server.memory_bytes,
            }
            for server in cluster.servers
        ],
        "default_link": describe_link(cluster.default_link),
        "loopback_link": describe_link(cluster.loopback_link),
        "links": [
            {"between": list(pair)} | (describe_link(link) or {})
            for pair, link in cluster.links.items()
        ],
    }


def describe_host(host: Host) -> dict[str, Any]:
    """One host as a JSON object."""
    return {
        "name": host.name,
        "cores": host.cores,
        "memory_bytes": host.memory_bytes,
        "cache_bytes": host.cache_bytes,
        "watts": host.watts,
        "store_bytes_per_s": host.store_bytes_per_s,
        "call_overhead_s": host.call_overhead_s,
        "layer_overhead_s": host.layer_overhead_s,
        "row_overhead_s": host.row_overhead_s,
        "one_core": describe_curve(host.one_core_bytes_per_s, "working_set_bytes", "bytes_per_s"),
        "all_cores": describe_curve(host.all_cores_bytes_per_s, "working_set_bytes", "bytes_per_s"),
        "rates": {precision: describe_rates(rates) for precision, rates in host.rates.items()},
    }


def describe_rates(rates: Rates) -> dict[str, Any]:
    """The rates at one precision as a JSON object."""
    return {
        "one_core": describe_curve(rates.one_core_macs_per_s, "rows", "macs_per_s"),
        "all_cores": describe_curve(rates.all_cores_macs_per_s, "rows", "macs_per_s"),
        "one_server": describe_curve(rates.one_server_macs_per_s, "rows", "macs_per_s"),
        "streaming": [
            {
                "inputs": each.inputs,
                "one_core": describe_curve(each.one_core_bytes_per_s, "rows", "bytes_per_s"),
                "all_cores": describe_curve(each.all_cores_bytes_per_s, "rows", "bytes_per_s"),
                "one_server": describe_curve(each.one_server_bytes_per_s, "rows", "bytes_per_s"),
            }
            for each in rates.streaming
        ],
        "overheads": rates.overheads
        and {
            "call_overhead_s": rates.overheads.call_s,
            "layer_overhead_s": rates.overheads.layer_s,
            "row_overhead_s": rates.overheads.row_s,
        },
    }


def describe_curve(curve: Curve | None, x: str, y: str) -> dict[str, list[float]] | None:
    """One curve as a JSON object of two lists; None where there is none."""
    return None if curve is None else {x: list(curve.x), y: list(curve.y)}


def describe_link(link: LinkSpeed | None) -> dict[str, float] | None:
    """One link as a JSON object."""
    if link is None:
        return None
    return {
        "bandwidth_bytes_per_s": link.bandwidth_bytes_per_s,
        "round_trip_s": link.round_trip_s,
    }
