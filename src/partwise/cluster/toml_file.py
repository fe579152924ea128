"""The cluster file: TOML whose every key ends with its unit.

    [[hosts]]                        # a machine: what its servers share
    name = "lab"
    cores = 2
    memory_gib = 16
    call_overhead_us = 150           # optional, as are layer_overhead_us, store_gb_per_s, watts
    cache_mib = 12                   # and cache_mib

    [hosts.one_core_bandwidth]       # reading, over the working set of that core
    working_set_mib = [1, 12, 32]
    bandwidth_gb_per_s = [73, 73, 25]

    [hosts.all_cores_bandwidth]      # over the working set of all cores together
    working_set_mib = [1, 12, 32]
    bandwidth_gb_per_s = [140, 140, 40]

    [hosts.rates.fp32]               # over the rows of a pass
    rows = [1, 16]
    one_core_gmacs_per_s = [6, 25]
    all_cores_gmacs_per_s = [10, 48]

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

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from partwise.cluster.description import Cluster, Curve, Host, LinkSpeed, Rates, Server
from partwise.cluster.toml_table import Table, to_unit
from partwise.errors import ClusterError

_FILE_KEYS = ("hosts", "servers", "default_link", "loopback_link", "links")
_HOST_KEYS = (
    "name",
    "cores",
    "memory_gib",
    "one_core_bandwidth",
    "all_cores_bandwidth",
    "rates",
    "call_overhead_us",
    "layer_overhead_us",
    "store_gb_per_s",
    "watts",
    "cache_mib",
)
_SERVER_KEYS = ("name", "host", "threads", "memory_gib")
_BANDWIDTH_KEYS = ("working_set_mib", "bandwidth_gb_per_s")
_RATE_KEYS = ("rows", "one_core_gmacs_per_s", "all_cores_gmacs_per_s")
_LINK_KEYS = ("bandwidth_gb_per_s", "round_trip_us")


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
        return _read_host(tables[0])
    except ClusterError as exc:
        raise ClusterError(f"{path}: {exc}") from exc


def write_host(host: Host) -> str:
    """The text of a file that `read_host` reads back as ``host``."""
    return "\n".join(_write_host(host))


def decode_cluster(text: str) -> Cluster:
    """The cluster described by ``text``.

    Raises:
        ClusterError: it is not TOML, a key is missing, unknown or wrong, or the hosts,
            servers and links contradict each other.
    """
    table = _decode(text)
    loopback = "loopback_link" in table.values
    return Cluster(
        hosts=tuple(_read_host(values) for values in table.tables("hosts")),
        servers=tuple(_read_server(values) for values in table.tables("servers")),
        default_link=_read_speed(table.table("default_link", _LINK_KEYS)),
        loopback_link=_read_speed(table.table("loopback_link", _LINK_KEYS)) if loopback else None,
        links=_read_links(table.tables("links")),
    )


def write_cluster(cluster: Cluster) -> str:
    """The text of a cluster file that reads back as ``cluster``."""
    lines: list[str] = []
    for host in cluster.hosts:
        lines += _write_host(host)
    for server in cluster.servers:
        lines += ["[[servers]]", f"name = {_quote(server.name)}", f"host = {_quote(server.host)}"]
        lines += [f"threads = {server.threads}", _write("memory_gib", server.memory_bytes), ""]
    lines += ["[default_link]", *_write_speed(cluster.default_link), ""]
    if cluster.loopback_link is not None:
        lines += ["[loopback_link]", *_write_speed(cluster.loopback_link), ""]
    for (a, b), speed in cluster.links.items():
        between = f"between = [{_quote(a)}, {_quote(b)}]"
        lines += ["[[links]]", between, *_write_speed(speed), ""]
    return "\n".join(lines)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise ClusterError(f"cannot read the cluster file {path}: {reason}") from exc


def _decode(text: str) -> Table:
    try:
        document = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as exc:
        raise ClusterError(f"not a cluster file, for it is not TOML: {exc}") from exc
    return Table(where="the file", values=document, keys=_FILE_KEYS)


def _read_host(values: Mapping[str, Any]) -> Host:
    table = Table(where=_name("host", values), values=values, keys=_HOST_KEYS)
    cache = table.optional("cache_mib")
    rates = table.table("rates", None)
    return Host(
        name=table.text("name"),
        cores=table.whole("cores"),
        memory_bytes=round(table.number("memory_gib")),
        one_core_bytes_per_s=_read_bandwidth(table, "one_core_bandwidth"),
        all_cores_bytes_per_s=_read_bandwidth(table, "all_cores_bandwidth"),
        rates={name: _read_rates(rates.table(name, _RATE_KEYS)) for name in rates.values},
        call_overhead_s=table.optional("call_overhead_us", has_zero=True) or 0.0,
        layer_overhead_s=table.optional("layer_overhead_us", has_zero=True) or 0.0,
        store_bytes_per_s=table.optional("store_gb_per_s"),
        watts=table.optional("watts"),
        cache_bytes=None if cache is None else round(cache),
    )


def _read_bandwidth(host: Table, key: str) -> Curve:
    return _read_curve(host.table(key, _BANDWIDTH_KEYS), *_BANDWIDTH_KEYS)


def _read_rates(table: Table) -> Rates:
    rows, one_core, all_cores = _RATE_KEYS
    return Rates(
        one_core_macs_per_s=_read_curve(table, rows, one_core),
        all_cores_macs_per_s=_read_curve(table, rows, all_cores),
    )


def _read_curve(table: Table, x: str, y: str) -> Curve:
    xs, ys = table.numbers(x), table.numbers(y)
    try:
        return Curve(x=xs, y=ys)
    except ClusterError as exc:
        raise ClusterError(f"{table.where}: {x} and {y}: {exc}") from exc


def _read_server(values: Mapping[str, Any]) -> Server:
    table = Table(where=_name("server", values), values=values, keys=_SERVER_KEYS)
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
                f'a link has between = {between!r}, expected two names, as in ["lab", "attic"]'
            )
        pair = str(between[0]), str(between[1])
        if pair in links:
            raise ClusterError(f"the link of {pair[0]!r} and {pair[1]!r} is given twice: keep one")
        where = f"the link of {pair[0]!r} and {pair[1]!r}"
        keys = ("between", *_LINK_KEYS)
        links[pair] = _read_speed(Table(where=where, values=values, keys=keys))
    return links


def _name(noun: str, values: Mapping[str, Any]) -> str:
    name = values.get("name")
    return f"{noun} {name!r}" if isinstance(name, str) else f"a {noun} without a name"


def _write_host(host: Host) -> Iterator[str]:
    yield from ("[[hosts]]", f"name = {_quote(host.name)}", f"cores = {host.cores}")
    yield _write("memory_gib", host.memory_bytes)
    optional = {
        "call_overhead_us": host.call_overhead_s or None,
        "layer_overhead_us": host.layer_overhead_s or None,
        "store_gb_per_s": host.store_bytes_per_s,
        "watts": host.watts,
        "cache_mib": host.cache_bytes,
    }
    yield from (_write(key, value) for key, value in optional.items() if value is not None)
    for name, curve in (
        ("one_core_bandwidth", host.one_core_bytes_per_s),
        ("all_cores_bandwidth", host.all_cores_bytes_per_s),
    ):
        yield from ("", f"[hosts.{name}]")
        yield _write_list("working_set_mib", curve.x)
        yield _write_list("bandwidth_gb_per_s", curve.y)
    for precision, rates in host.rates.items():
        yield from _write_rates(precision, rates)
    yield ""


def _write_rates(precision: str, rates: Rates) -> Iterator[str]:
    one_core, all_cores = rates.one_core_macs_per_s, rates.all_cores_macs_per_s
    if one_core.x != all_cores.x:
        raise ClusterError(
            f"the rates of {precision} are at rows {one_core.x} for one core and {all_cores.x} for"
            " all: a cluster file has one list of rows for both"
        )
    key = precision if re.fullmatch(r"[\w-]+", precision, re.ASCII) else _quote(precision)
    yield from ("", f"[hosts.rates.{key}]")
    columns = (one_core.x, one_core.y, all_cores.y)
    yield from (_write_list(key, values) for key, values in zip(_RATE_KEYS, columns, strict=True))


def _write_speed(speed: LinkSpeed) -> Iterator[str]:
    yield _write("bandwidth_gb_per_s", speed.bandwidth_bytes_per_s)
    yield _write("round_trip_us", speed.round_trip_s)


def _write(key: str, value: float) -> str:
    return f"{key} = {to_unit(key, value)}"


def _write_list(key: str, values: tuple[float, ...]) -> str:
    return f"{key} = [{', '.join(to_unit(key, value) for value in values)}]"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
