"""What a probe measured, of this machine or of a link, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from partwise.cli.format import GIB, MIB, Cell, format_table

if TYPE_CHECKING:
    from partwise.cluster import Host
    from partwise.probe.link import LinkFigures
    from partwise.probe.probing import Probe
    from partwise.probe.spread import Spread

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
        render_widths(host),
        overheads,
        *(
            f"at {precision} a runner call {1e6 * own.call_s:.0f} us, a layer in it"
            f" {1e6 * own.layer_s:.0f} us, a row in a layer {1e6 * own.row_s:.0f} us"
            for precision, rates in host.rates.items()
            if (own := rates.overheads) is not None
        ),
    )
    return "\n\n".join(filter(None, lines))


def render_widths(host: Host) -> str:
    """Of which matrices the table has what is read from memory; empty where of none."""
    widths = sorted({each.inputs for rates in host.rates.values() for each in rates.streaming})
    if not widths:
        return ""
    others = f" ({', '.join(f'{n:,}' for n in widths[:-1])}: see --json)" if widths[1:] else ""
    return f"from memory: in matrices of {widths[-1]:,} inputs, the widest measured{others}"


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
