"""The cluster file: TOML whose every key ends with its unit.

    [[hosts]]                        # a machine: what its servers share
    name = "lab"
    cores = 2
    memory_gib = 16
    call_overhead_us = 150           # optional, as are layer_overhead_us, store_gb_per_s, watts
    cache_mib = 12                   # cache_mib, row_overhead_us (of a row in each layer)

    [hosts.one_core_bandwidth]       # reading, over the working set of that core
    working_set_mib = [1, 12, 32]
    bandwidth_gb_per_s = [73, 73, 25]

    [hosts.all_cores_bandwidth]      # over the working set of all cores together
    working_set_mib = [1, 12, 32]
    bandwidth_gb_per_s = [140, 140, 40]

    [hosts.rates.fp32]               # over the rows of a pass
    rows = [1, 16]
    one_core_gmacs_per_s = [6, 25]
    all_cores_gmacs_per_s = [10, 48] # each core by itself, together
    one_server_gmacs_per_s = [6, 40] # optional: by one server with a thread on each core

    [[hosts.rates.fp32.streaming]]   # optional: reading weights that no cache holds,
    inputs = 2048                    # in matrices of so many inputs; may be repeated for others
    rows = [1, 16]
    one_core_gb_per_s = [24, 9]
    all_cores_gb_per_s = [38, 17]
    one_server_gb_per_s = [24, 12]   # optional

    [[servers]]                      # a process on a host
    name = "lab-0"
    host = "lab"
    threads = 1
    memory_gib = 7

    [default_link]                   # [loopback_link] likewise, for servers of one host
    bandwidth_gb_per_s = 1.25
    round_trip_us = 100

    [[links]]                        # of two servers, or of two hosts
    between = ["lab", "lab-0"]
    bandwidth_gb_per_s = 0.02
    round_trip_us = 3000

What is written reads back as exactly the same cluster.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from partwise.cluster.checks import shorten
from partwise.cluster.description import Cluster, Host, LinkSpeed, Server
from partwise.cluster.toml_host import read_host_table, write_host_lines
from partwise.cluster.toml_table import Table, name_table, quote, write_number
from partwise.errors import ClusterError

_FILE_KEYS = ("hosts", "servers", "default_link", "loopback_link", "links")
_SERVER_KEYS = ("name", "host", "threads", "memory_gib")
_LINK_KEYS = ("bandwidth_gb_per_s", "round_trip_us")
MAX_BITS = 63
"""Of a whole number in TOML, beside its sign."""


def read_cluster(path: Path) -> Cluster:
    """The cluster described by a file.

    Raises:
        ClusterError: the file cannot be read, is not TOML, or describes no cluster.
    """
    text = _read_text(path)
    try:
        return decode_cluster(text)
    except ClusterError as exc:
        raise ClusterError(f"{path}: {exc}") from exc


def read_host(path: Path) -> Host:
    """The one host of a file, whatever else is in it: what a probe writes, or a cluster file.

    Raises:
        ClusterError: the file cannot be read, is not TOML, or has none or several hosts.
    """
    text = _read_text(path)
    try:
        tables = _decode(text).tables("hosts")
        if len(tables) != 1:
            raise ClusterError(f"the file has {len(tables)} hosts: give a file with 1")
        return read_host_table(tables[0])
    except ClusterError as exc:
        raise ClusterError(f"{path}: {exc}") from exc


def write_host(host: Host) -> str:
    """The text of a file that `read_host` reads back as ``host``."""
    return "\n".join(write_host_lines(host))


def decode_cluster(text: str) -> Cluster:
    """The cluster described by ``text``.

    Raises:
        ClusterError: it is not TOML, a key is missing, unknown or wrong, or the hosts,
            servers and links contradict each other.
    """
    table = _decode(text)
    if "hosts" in table.values and not {"servers", "default_link"} & table.values.keys():
        raise ClusterError(
            "a host file, without servers and links: use --cluster local-N --host FILE, which cuts"
            " that machine"
        )
    loopback = "loopback_link" in table.values
    return Cluster(
        hosts=tuple(read_host_table(values) for values in table.tables("hosts")),
        servers=tuple(_read_server(values) for values in table.tables("servers")),
        default_link=_read_speed(table.table("default_link", _LINK_KEYS)),
        loopback_link=_read_speed(table.table("loopback_link", _LINK_KEYS)) if loopback else None,
        links=_read_links(table.tables("links")),
    )


def write_cluster(cluster: Cluster) -> str:
    """The text of a cluster file that reads back as ``cluster``."""
    lines: list[str] = []
    for host in cluster.hosts:
        lines += write_host_lines(host)
    for server in cluster.servers:
        lines += ["[[servers]]", f"name = {quote(server.name)}", f"host = {quote(server.host)}"]
        lines += [
            f"threads = {server.threads}",
            write_number("memory_gib", server.memory_bytes),
            "",
        ]
    lines += ["[default_link]", *_write_speed(cluster.default_link), ""]
    if cluster.loopback_link is not None:
        lines += ["[loopback_link]", *_write_speed(cluster.loopback_link), ""]
    for pair, speed in cluster.links.items():
        lines += [*_write_link(pair, speed), ""]
    return "\n".join(lines)


def write_link(pair: tuple[str, str], speed: LinkSpeed) -> str:
    """The text of one ``[[links]]`` table of a cluster file."""
    return "\n".join(_write_link(pair, speed))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ClusterError(f"cannot read the cluster file {path}: {reason}") from exc


def _decode(text: str) -> Table:
    try:
        document = tomllib.loads(text, parse_float=Decimal)
        _refuse_large(document)
    except tomllib.TOMLDecodeError as exc:
        raise ClusterError(f"not a cluster file, for it is not TOML: {exc}") from exc
    except RecursionError as exc:
        raise ClusterError("not a cluster file: its tables or lists lie too deep") from exc
    except (ValueError, ArithmeticError) as exc:
        raise ClusterError(
            "not a cluster file: it has a number beyond TOML's limits (whole ones have 64 bits)"
        ) from exc
    return Table(where="the file", values=document, keys=_FILE_KEYS)


def _refuse_large(value: object) -> None:
    """Refuse whole numbers of more than 64 bits, which TOML does not have and Python reads.

    Raises:
        ValueError: there is one.
    """
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_large(item)
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError("a whole number of more than 64 bits")


def _read_server(values: Mapping[str, Any]) -> Server:
    table = Table(where=name_table("server", values), values=values, keys=_SERVER_KEYS)
    return Server(
        name=table.text("name"),
        host=table.text("host"),
        threads=table.whole("threads"),
        memory_bytes=round(table.number("memory_gib")),
    )


def _read_speed(table: Table) -> LinkSpeed:
    return LinkSpeed(
        bandwidth_bytes_per_s=table.number("bandwidth_gb_per_s"),
        round_trip_s=table.number("round_trip_us", has_zero=True),
    )


def _read_links(tables: list[Mapping[str, Any]]) -> dict[tuple[str, str], LinkSpeed]:
    links: dict[tuple[str, str], LinkSpeed] = {}
    for values in tables:
        between = values.get("between")
        if not (isinstance(between, list) and len(between) == 2):
            raise ClusterError(
                f"a link has between = {shorten(repr(between))}, expected two names, as in"
                ' ["lab", "attic"]'
            )
        pair = str(between[0]), str(between[1])
        if pair in links:
            raise ClusterError(f"the link of {pair[0]!r} and {pair[1]!r} is given twice: keep one")
        where = f"the link of {pair[0]!r} and {pair[1]!r}"
        keys = ("between", *_LINK_KEYS)
        links[pair] = _read_speed(Table(where=where, values=values, keys=keys))
    return links


def _write_link(pair: tuple[str, str], speed: LinkSpeed) -> Iterator[str]:
    a, b = map(quote, pair)
    yield from ("[[links]]", f"between = [{a}, {b}]", *_write_speed(speed))


def _write_speed(speed: LinkSpeed) -> Iterator[str]:
    yield write_number("bandwidth_gb_per_s", speed.bandwidth_bytes_per_s)
    yield write_number("round_trip_us", speed.round_trip_s)
