"""A cluster as tables for people. Hosts that differ in their names alone share a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from partwise.cli.format import GIB, MIB, Cell, format_table, tabulate

if TYPE_CHECKING:
    from partwise.cluster import Cluster, Curve, Host

ROWS = (1, 16, 128)
HOST_HEADERS = (
    "host",
    "cores",
    "memory GiB",
    "cache MiB",
    "cache GB/s",
    "memory GB/s",
    "store GB/s",
    "call us",
    "layer us",
    "row us",
    "watts",
)
AT = ("at 1 row", "at 16 rows", "at 128 rows")
RATE_HEADERS = ("host", "precision", "by", *(f"GMAC/s {at}" for at in AT))
STREAMING_HEADERS = ("host", "precision", "inputs", "by", *(f"streaming GB/s {at}" for at in AT))
SERVER_HEADERS = ("server", "host", "threads", "memory GiB")
LINK_HEADERS = ("link", "MB/s", "round trip us")


def render(cluster: Cluster) -> str:
    """The cluster as tables; bandwidths are those of all cores.

    Streaming is reading weights that no cache holds, where it was measured.
    """
    groups = group_hosts(cluster.hosts)
    streaming = [row for name, host in groups for row in _list_streaming(name, host)]
    servers = [(s.name, s.host, s.threads, s.memory_bytes / GIB) for s in cluster.servers]
    tables = [
        tabulate(HOST_HEADERS, [_list_host(name, host) for name, host in groups]),
        format_table(
            RATE_HEADERS, [row for name, host in groups for row in _list_rates(name, host)]
        ),
        *([format_table(STREAMING_HEADERS, streaming)] if streaming else []),
        format_table(SERVER_HEADERS, servers),
        format_table(LINK_HEADERS, list(_list_links(cluster))),
    ]
    return "\n\n".join(tables)


def group_hosts(hosts: Sequence[Host]) -> list[tuple[str, Host]]:
    """Each different host once, under its name and the number of others that are like it."""
    groups: list[tuple[Host, list[str]]] = []
    for host in hosts:
        plain = replace(host, name="any")
        names = next((names for other, names in groups if other == plain), None)
        if names is None:
            groups.append((plain, [host.name]))
        else:
            names.append(host.name)
    return [
        (names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it", host)
        for host, names in groups
    ]


def _list_host(name: str, host: Host) -> tuple[Cell, ...]:
    store = host.store_bytes_per_s
    return (
        name,
        host.cores,
        host.memory_bytes / GIB,
        None if host.cache_bytes is None else host.cache_bytes / MIB,
        host.all_cores_bytes_per_s.y[0] / 1e9,
        host.all_cores_bytes_per_s.y[-1] / 1e9,
        None if store is None else store / 1e9,
        1e6 * host.call_overhead_s or None,
        1e6 * host.layer_overhead_s or None,
        1e6 * host.row_overhead_s or None,
        host.watts,
    )


def _list_rates(name: str, host: Host) -> Iterator[tuple[Cell, ...]]:
    for precision, rates in host.rates.items():
        for by, curve in (
            ("all cores", rates.all_cores_macs_per_s),
            ("one server", rates.one_server_macs_per_s),
        ):
            if curve is not None:
                yield (name, precision, by, *_read_at(curve))


def _list_streaming(name: str, host: Host) -> Iterator[tuple[Cell, ...]]:
    for precision, rates in host.rates.items():
        for each in rates.streaming:
            for by, curve in (
                ("all cores", each.all_cores_bytes_per_s),
                ("one server", each.one_server_bytes_per_s),
            ):
                if curve is not None:
                    yield (name, precision, each.inputs, by, *_read_at(curve))


def _list_links(cluster: Cluster) -> Iterator[tuple[Cell, ...]]:
    named = {"default": cluster.default_link, "on one host": cluster.loopback_link}
    named |= {f"{a} and {b}": link for (a, b), link in cluster.links.items()}
    for name, link in named.items():
        if link is not None:
            yield name, link.bandwidth_bytes_per_s / 1e6, link.round_trip_s * 1e6


def _read_at(curve: Curve) -> tuple[float, ...]:
    return tuple(curve.at(rows) / 1e9 for rows in ROWS)
