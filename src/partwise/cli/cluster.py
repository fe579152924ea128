"""`partwise cluster show`: a cluster from its file or preset, as a table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partwise.cli.format import Cell
    from partwise.cluster import Cluster, Curve, Host, LinkSpeed, Rates

NAME = "cluster"
HELP = "describe the hosts, servers and links of a cluster file or a preset"
EXAMPLES = ("partwise cluster show home", "partwise cluster show lab.toml --json")

HOST_HEADERS = ("host", "cores", "memory GiB", "cache MiB", "cache GB/s", "memory GB/s", "watts")
RATE_HEADERS = ("host", "precision", "GMAC/s at 1 row", "GMAC/s at 16 rows", "GMAC/s at 128 rows")
SERVER_HEADERS = ("server", "host", "threads", "memory GiB")
LINK_HEADERS = ("link", "MB/s", "round trip us")
ROWS = (1, 16, 128)


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
    from partwise.cluster.toml_file import write_cluster

    cluster = open_cluster(args.cluster, host_file=args.host)
    if args.toml:
        print(write_cluster(cluster), end="")
    else:
        print(json.dumps(describe(cluster), indent=1) if args.json else render(cluster))
    return 0


def open_cluster(name: str, *, host_file: Path | None = None) -> Cluster:
    """The cluster of a file, or of a preset where no file has that name.

    Raises:
        ClusterError: it is neither, or the file describes no cluster.
    """
    from partwise.cluster.presets import PRESETS, preset
    from partwise.cluster.toml_file import read_cluster, read_host
    from partwise.errors import ClusterError

    path = Path(name)
    if path.exists():
        if host_file is not None:
            raise ClusterError(f"{name} has its own hosts: give --host to local-N alone")
        return read_cluster(path)
    if path.suffix or len(path.parts) > 1:
        raise ClusterError(
            f"there is no cluster file {name}: give another, or a preset ({', '.join(PRESETS)})"
        )
    return preset(name, host=None if host_file is None else read_host(host_file))


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


def render(cluster: Cluster) -> str:
    """The cluster as tables for people; bandwidths and rates are those of all cores."""
    from partwise.cli.format import GIB, MIB, format_table

    hosts = [
        (
            host.name,
            host.cores,
            host.memory_bytes / GIB,
            None if host.cache_bytes is None else host.cache_bytes / MIB,
            host.all_cores_bytes_per_s.y[0] / 1e9,
            host.all_cores_bytes_per_s.y[-1] / 1e9,
            host.watts,
        )
        for host in cluster.hosts
    ]
    rates: list[tuple[Cell, ...]] = [
        (host.name, precision, *(rate.all_cores_macs_per_s.at(rows) / 1e9 for rows in ROWS))
        for host in cluster.hosts
        for precision, rate in host.rates.items()
    ]
    servers = [(s.name, s.host, s.threads, s.memory_bytes / GIB) for s in cluster.servers]
    named = {"default": cluster.default_link, "on one host": cluster.loopback_link}
    named |= {f"{a} and {b}": link for (a, b), link in cluster.links.items()}
    links = [
        (name, link.bandwidth_bytes_per_s / 1e6, link.round_trip_s * 1e6)
        for name, link in named.items()
        if link is not None
    ]
    tables = (
        format_table(HOST_HEADERS, hosts),
        format_table(RATE_HEADERS, rates),
        format_table(SERVER_HEADERS, servers),
        format_table(LINK_HEADERS, links),
    )
    return "\n\n".join(tables)
