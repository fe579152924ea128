"""The tables of one host in a cluster file; `toml_file.py` shows them in an example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from partwise.cluster.description import PRECISIONS, Curve, Host, Overheads, Rates, Streaming
from partwise.cluster.toml_table import Table, name_table, quote, to_unit, write_number
from partwise.errors import ClusterError

_HOST_KEYS = (
    "name",
    "cores",
    "memory_gib",
    "one_core_bandwidth",
    "all_cores_bandwidth",
    "rates",
    "call_overhead_us",
    "layer_overhead_us",
    "row_overhead_us",
    "store_gb_per_s",
    "watts",
    "cache_mib",
)
_BANDWIDTH_KEYS = ("working_set_mib", "bandwidth_gb_per_s")
_OVERHEAD_KEYS = ("call_overhead_us", "layer_overhead_us", "row_overhead_us")
_RATE_KEYS = ("one_core_gmacs_per_s", "all_cores_gmacs_per_s", "one_server_gmacs_per_s")
_STREAMING_KEYS = ("one_core_gb_per_s", "all_cores_gb_per_s", "one_server_gb_per_s")


def read_host_table(values: Mapping[str, Any]) -> Host:
    """The host of one ``[[hosts]]`` table.

    Raises:
        ClusterError: a key is missing, unknown or wrong.
    """
    table = Table(where=name_table("host", values), values=values, keys=_HOST_KEYS)
    cache = table.optional("cache_mib")
    rates = table.table("rates", PRECISIONS)
    return Host(
        name=table.text("name"),
        cores=table.whole("cores"),
        memory_bytes=round(table.number("memory_gib")),
        one_core_bytes_per_s=_read_bandwidth(table, "one_core_bandwidth"),
        all_cores_bytes_per_s=_read_bandwidth(table, "all_cores_bandwidth"),
        rates={name: _read_rates(rates, name) for name in rates.values},
        call_overhead_s=table.optional("call_overhead_us", has_zero=True) or 0.0,
        layer_overhead_s=table.optional("layer_overhead_us", has_zero=True) or 0.0,
        row_overhead_s=table.optional("row_overhead_us", has_zero=True) or 0.0,
        store_bytes_per_s=table.optional("store_gb_per_s"),
        watts=table.optional("watts"),
        cache_bytes=None if cache is None else round(cache),
    )


def write_host_lines(host: Host) -> Iterator[str]:
    """The lines that `read_host_table` reads back as ``host``.

    Raises:
        ClusterError: curves that the file keeps together are at different rows.
    """
    yield from ("[[hosts]]", f"name = {quote(host.name)}", f"cores = {host.cores}")
    yield write_number("memory_gib", host.memory_bytes)
    overheads_s = (host.call_overhead_s, host.layer_overhead_s, host.row_overhead_s)
    # A probe may find one of them to be nothing, and says so.
    if any(overheads_s):
        yield from map(write_number, _OVERHEAD_KEYS, overheads_s)
    optional = {
        "store_gb_per_s": host.store_bytes_per_s,
        "watts": host.watts,
        "cache_mib": host.cache_bytes,
    }
    yield from (write_number(key, value) for key, value in optional.items() if value is not None)
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


def _read_bandwidth(host: Table, key: str) -> Curve:
    return _read_curve(host.table(key, _BANDWIDTH_KEYS), *_BANDWIDTH_KEYS)


def _read_rates(rates: Table, precision: str) -> Rates:
    table = rates.table(precision, ("rows", *_RATE_KEYS, *_OVERHEAD_KEYS, "streaming"))
    one_core, all_cores, one_server = _read_columns(table, _RATE_KEYS)
    return Rates(
        one_core_macs_per_s=one_core,
        all_cores_macs_per_s=all_cores,
        one_server_macs_per_s=one_server,
        streaming=tuple(_read_streaming(table, values) for values in table.tables("streaming")),
        overheads=_read_overheads(table),
    )


def _read_overheads(table: Table) -> Overheads | None:
    """Those of the runner; None where not one is given."""
    given = [table.optional(key, has_zero=True) for key in _OVERHEAD_KEYS]
    if not any(key in table.values for key in _OVERHEAD_KEYS):
        return None
    call_s, layer_s, row_s = (value or 0.0 for value in given)
    return Overheads(call_s=call_s, layer_s=layer_s, row_s=row_s)


def _read_streaming(rates: Table, values: Mapping[str, Any]) -> Streaming:
    keys = ("inputs", "rows", *_STREAMING_KEYS)
    table = Table(where=f"{rates.where}: streaming", values=values, keys=keys)
    one_core, all_cores, one_server = _read_columns(table, _STREAMING_KEYS)
    return Streaming(
        inputs=table.whole("inputs"),
        one_core_bytes_per_s=one_core,
        all_cores_bytes_per_s=all_cores,
        one_server_bytes_per_s=one_server,
    )


def _read_columns(table: Table, keys: tuple[str, ...]) -> tuple[Curve, Curve, Curve | None]:
    """By one core, by all cores and, where it is given, by one server."""
    one_core, all_cores = (_read_curve(table, "rows", key) for key in keys[:2])
    one_server = _read_curve(table, "rows", keys[2]) if keys[2] in table.values else None
    return one_core, all_cores, one_server


def _read_curve(table: Table, x: str, y: str) -> Curve:
    xs, ys = table.numbers(x), table.numbers(y)
    try:
        return Curve(x=xs, y=ys)
    except ClusterError as exc:
        raise ClusterError(f"{table.where}: {x} and {y}: {exc}") from exc


def _write_rates(precision: str, rates: Rates) -> Iterator[str]:
    key = precision if re.fullmatch(r"[\w-]+", precision, re.ASCII) else quote(precision)
    columns = (rates.one_core_macs_per_s, rates.all_cores_macs_per_s, rates.one_server_macs_per_s)
    yield from ("", f"[hosts.rates.{key}]")
    if rates.overheads is not None:
        times_s = (rates.overheads.call_s, rates.overheads.layer_s, rates.overheads.row_s)
        yield from map(write_number, _OVERHEAD_KEYS, times_s)
    yield from _write_columns(f"the rates of {precision}", _RATE_KEYS, columns)
    for streaming in rates.streaming:
        yield from ("", f"[[hosts.rates.{key}.streaming]]", f"inputs = {streaming.inputs}")
        yield from _write_columns(
            f"the streaming of {precision}",
            _STREAMING_KEYS,
            (
                streaming.one_core_bytes_per_s,
                streaming.all_cores_bytes_per_s,
                streaming.one_server_bytes_per_s,
            ),
        )


def _write_columns(
    what: str, keys: tuple[str, ...], curves: tuple[Curve | None, ...]
) -> Iterator[str]:
    given = {key: curve for key, curve in zip(keys, curves, strict=True) if curve is not None}
    rows = [curve.x for curve in given.values()]
    if len(set(rows)) > 1:
        raise ClusterError(
            f"{what} are at rows {rows[0]} and {next(x for x in rows if x != rows[0])}: a cluster"
            " file has one list of rows for all of them"
        )
    yield _write_list("rows", rows[0])
    yield from (_write_list(key, curve.y) for key, curve in given.items())


def _write_list(key: str, values: tuple[float, ...]) -> str:
    return f"{key} = [{', '.join(to_unit(key, value) for value in values)}]"
