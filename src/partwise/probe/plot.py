"""The read bandwidth of a host over its working set, as a picture. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from partwise.cluster.description import Host
from partwise.errors import ProbeError, UsageError

MIB = 1 << 20
SIZE_INCHES, DOTS_PER_INCH = (8.0, 4.8), 120
LABELS_MIB = (1 / 8, 1, 8, 64, 512)
"""Working sets that the axis names, of those that were measured."""


def require_matplotlib() -> None:
    """Refuse early what could not be drawn after a long measurement.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: `pip install 'partwise[plot]'`, or leave it out")


def check_ending(path: Path) -> None:
    """Refuse early a path whose ending names no format.

    Raises:
        UsageError: matplotlib draws none of that ending.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        ending = f"ends in {path.suffix}" if path.suffix else "has no ending"
        raise UsageError(f"--plot {path} {ending}: give a path ending in .png or .svg")


def plot_bandwidth(host: Host, path: Path) -> None:
    """Draw both curves of ``host`` to the file ``path``, whose ending names the format.

    Raises:
        ProbeError: the file cannot be written, or its format is not known.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    for curve, label in (
        (host.all_cores_bytes_per_s, f"all {host.cores} cores together"),
        (host.one_core_bytes_per_s, "one core"),
    ):
        sizes_mib = [x / MIB for x in curve.x]
        axes.plot(sizes_mib, [y / 1e9 for y in curve.y], marker="o", label=label)
    if host.cache_bytes is not None:
        cache_mib = host.cache_bytes / MIB
        axes.axvline(cache_mib, color="grey", linestyle=":", label=f"cache, {cache_mib:g} MiB")
    axes.set_xscale("log", base=2)
    ticks = [mib for mib in LABELS_MIB if mib <= host.one_core_bytes_per_s.x[-1] / MIB]
    axes.set_xticks(ticks, [f"{mib:g}" if mib >= 1 else f"1/{1 / mib:g}" for mib in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("working set, MiB")
    axes.set_ylabel("read bandwidth, GB/s")
    axes.set_title(f"{host.name}: what is read again and again")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as exc:
        raise ProbeError(
            f"cannot write the plot {path}: {exc}; give --plot a path ending in .png or .svg"
        ) from exc
