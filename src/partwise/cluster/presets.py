"""Well-known clusters, to plan with before there is a cluster file.

Nothing here was measured on the machines meant, but where a comment says so: a probe's host
file replaces it. ``local-N`` is one machine cut in N servers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from partwise.cluster.checks import shorten
from partwise.cluster.description import Cluster, Curve, Host, LinkSpeed, Rates, Server
from partwise.errors import ClusterError

GIB, MIB = 1 << 30, 1 << 20

PRESETS = {
    "local-N": "this machine cut in N servers, from a host file or typical figures",
    "seed-h100-50mb": "16 H100, all 50 MB of L2 as fast as the layer-wise seed says",
    "seed-h100-32mb": "16 H100 with the L2 that measurements find usable",
    "epyc-8": "8 EPYC servers with 1 GB of L3",
    "home": "4 unequal machines on Wi-Fi",
}
"""What each preset is, by its name."""
LOCAL, MAX_LOCAL = re.compile(r"local-([1-9][0-9]*)"), 1024
"""Planning over so many takes seconds, and no machine runs more."""


def preset(name: str, *, host: Host | None = None) -> Cluster:
    """The preset called ``name``; ``host`` is the machine that ``local-N`` cuts.

    Raises:
        ClusterError: no preset has that name, or a host is given to another than ``local-N``.
    """
    local = LOCAL.fullmatch(name)
    if local:
        if len(local[1]) > len(str(MAX_LOCAL)) or int(local[1]) > MAX_LOCAL:
            raise ClusterError(
                f"{shorten(name)} cuts a machine in more than {MAX_LOCAL:,} servers: give"
                f" local-{MAX_LOCAL} or fewer"
            )
        return _cut_local(int(local[1]), host)
    if host is not None:
        raise ClusterError(f"the preset {name!r} has its own hosts: give a host to local-N alone")
    if name not in _MAKERS:
        raise ClusterError(
            f"no preset is called {shorten(name)!r}: give one of {', '.join(PRESETS)}"
        )
    return _MAKERS[name]()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cpu:
    """What a CPU host is made of. ``cache_gb_per_s`` and ``memory_gb_per_s`` are for all cores,
    ``core_gb_per_s`` is what one reads from memory; ``gmacs_per_s`` is a core in fp32."""

    cores: int
    memory_gib: float
    cache_mib: float
    core_cache_gb_per_s: float
    core_gb_per_s: float
    memory_gb_per_s: float
    gmacs_per_s: tuple[float, ...]
    watts: float | None = None


_ROWS = (1.0, 4.0, 16.0, 128.0)

# One core of a 2-core EPYC (AVX2): fp32 decodes SmolLM2 (134.5 M MACs) at 40 tokens/s from
# memory and has 16 FMA a cycle; int8 at 90; int4 takes 4.5, 12 and 30 ms for 67 M MACs at 1, 4
# and 16 rows. Measured; the fp32 rates over 4 and more rows are a third to two thirds of peak.
_CORE_GMACS = {
    "fp32": (6.0, 10.0, 22.0, 32.0),
    "int8": (12.0, 20.0, 30.0, 32.0),
    "int4": (15.0, 22.0, 36.0, 36.0),
}


def _cut_local(num_servers: int, host: Host | None) -> Cluster:
    """Equal servers on one machine; where its cores are fewer than they, they take turns."""
    if host is None:
        host = _make_local(num_servers)
    servers = tuple(
        Server(
            name=f"local-{i}",
            host=host.name,
            threads=max(1, host.cores // num_servers),
            memory_bytes=max(1, host.memory_bytes // num_servers),
        )
        for i in range(num_servers)
    )
    # A round trip of small frames over loopback TCP: 24 to 79 us, measured; 256 KB in 142 us.
    loopback = LinkSpeed(bandwidth_bytes_per_s=4e9, round_trip_s=80e-6)
    return Cluster(hosts=(host,), servers=servers, default_link=loopback, loopback_link=loopback)


def _make_local(cores: int) -> Host:
    """A machine of as many cores as servers, each like the one measured for `_CORE_GMACS`."""
    # One core, measured: 73 GB/s up to 12 MiB, 61 at 16, 40 at 24, 26 at 32 and 24.5 beyond.
    x = (0.125 * MIB, 12.0 * MIB, 16.0 * MIB, 24.0 * MIB, 32.0 * MIB, 64.0 * MIB)
    one_core = (73e9, 73e9, 61e9, 40e9, 26e9, 24.5e9)
    # Assumed: the cache serves every core alike, memory two cores' worth in all.
    all_cores = tuple(y * (cores if y > 40e9 else min(cores, 2)) for y in one_core)
    return Host(
        name="local",
        cores=cores,
        memory_bytes=max(16, 4 * cores) * GIB,
        one_core_bytes_per_s=Curve(x=x, y=one_core),
        all_cores_bytes_per_s=Curve(x=x, y=all_cores),
        rates=_scale_rates(_CORE_GMACS["fp32"], cores),
        # Assumed: what a runner's call and a layer's dozen operators cost in Python.
        call_overhead_s=150e-6,
        layer_overhead_s=100e-6,
        cache_bytes=12 * MIB,
    )


def _scale_rates(fp32_gmacs: tuple[float, ...], cores: int) -> dict[str, Rates]:
    """Rates of all precisions in the proportions of `_CORE_GMACS`; cores add up."""
    rates = {}
    for precision, gmacs in _CORE_GMACS.items():
        triples = zip(gmacs, _CORE_GMACS["fp32"], fp32_gmacs, strict=True)
        core = tuple(1e9 * own * given / base for own, base, given in triples)
        rates[precision] = Rates(
            one_core_macs_per_s=Curve(x=_ROWS, y=core),
            all_cores_macs_per_s=Curve(x=_ROWS, y=tuple(cores * y for y in core)),
        )
    return rates


def _make_h100s(x_mb: tuple[float, ...], tb_per_s: tuple[float, ...], cache_mb: int) -> Cluster:
    """The hardware of the layer-wise seed: 16 cards, of which it gives the L2 alone."""
    bandwidth = Curve(x=tuple(x * 1e6 for x in x_mb), y=tuple(y * 1e12 for y in tb_per_s))
    hosts = tuple(
        Host(
            name=f"h100-{i}",
            cores=1,  # one device, which one server has to itself
            memory_bytes=80 * GIB,
            one_core_bytes_per_s=bandwidth,
            all_cores_bytes_per_s=bandwidth,
            rates=_make_tensor_rates(),
            # Assumed: a captured graph starts in 5 us; layers in it cost nothing more.
            call_overhead_s=5e-6,
            watts=350.0,  # the PCIe card's limit (data sheet), on which the L2 was measured
            cache_bytes=cache_mb * 1_000_000,
        )
        for i in range(16)
    )
    # Assumed: 400 Gb/s of InfiniBand, 5 us a way. The seed names no network.
    return _give_one_server_each(hosts, LinkSpeed(bandwidth_bytes_per_s=50e9, round_trip_s=10e-6))


def _make_tensor_rates() -> dict[str, Rates]:
    """Dense peaks of the PCIe card (data sheet): 756 TFLOPS in fp16, 1,513 TOPS in int8.

    Assumed: the peak from 64 rows on, below in proportion; int4 weights compute in fp16 and
    fp32 runs as TF32 at half of it.
    """
    peaks = {"fp32": 189e12, "fp16": 378e12, "bf16": 378e12, "int8": 756e12, "int4": 378e12}
    rates = {}
    for precision, peak in peaks.items():
        curve = Curve(x=(1.0, 8.0, 64.0), y=(peak / 64, peak / 8, peak))
        rates[precision] = Rates(one_core_macs_per_s=curve, all_cores_macs_per_s=curve)
    return rates


def _make_seed_claimed() -> Cluster:
    # Device memory reads at 2.0 TB/s, L2 at 6.9 (measured); that it holds 50 MB is the claim.
    return _make_h100s((50.0, 50.5), (6.9, 2.0), 50)


def _make_seed_measured() -> Cluster:
    # Cyclic reads on an H100 PCIe, published: 6.9 TB/s to 34 MB, 3.3 at 41, 2.1 at 49.
    return _make_h100s((34.0, 41.0, 49.0, 64.0), (6.9, 3.3, 2.1, 2.0), 32)


def _make_epycs() -> Cluster:
    """EPYC 9684X: 96 cores, 1,152 MB of L3, twelve channels of DDR5-4800, 400 W (data sheet)."""
    cpu = _Cpu(
        cores=96,
        memory_gib=384,
        cache_mib=1024,  # of 1,152: what weights may fill beside everything else
        # Assumed: a core reads L3 as the measured EPYC's does, and memory a little faster;
        # all cores reach 80 % of 460.8 GB/s.
        core_cache_gb_per_s=73,
        core_gb_per_s=30,
        memory_gb_per_s=369,
        # Assumed: AVX-512 computes twice what the measured AVX2 core does.
        gmacs_per_s=(12, 20, 44, 64),
        watts=400,
    )
    # Assumed: 100 Gb/s Ethernet, 30 us for a round trip through the kernel.
    link = LinkSpeed(bandwidth_bytes_per_s=12.5e9, round_trip_s=30e-6)
    return _give_one_server_each(tuple(_make_cpu(f"epyc-{i}", cpu) for i in range(8)), link)


def _make_home() -> Cluster:
    """All figures assumed, typical of their kind; memory at 80 % of its channels' peak."""
    desktop = _Cpu(
        cores=8,
        memory_gib=32,
        cache_mib=32,
        core_cache_gb_per_s=70,
        core_gb_per_s=30,
        memory_gb_per_s=41,  # DDR4-3200, two channels
        gmacs_per_s=(8, 13, 28, 42),
        watts=120,
    )
    laptop = replace(
        desktop, memory_gib=16, cache_mib=8, memory_gb_per_s=55, core_gb_per_s=25, watts=35
    )
    old = _Cpu(
        cores=4,
        memory_gib=8,
        cache_mib=6,
        core_cache_gb_per_s=40,
        core_gb_per_s=12,
        memory_gb_per_s=20,  # DDR3-1600, two channels
        gmacs_per_s=(4, 7, 15, 22),
        watts=80,
    )
    board = _Cpu(
        cores=4,
        memory_gib=8,
        cache_mib=2,
        core_cache_gb_per_s=20,
        core_gb_per_s=8,
        memory_gb_per_s=12,  # LPDDR4X-4267, 32 bits
        gmacs_per_s=(1.5, 2.5, 4.8, 7),
        watts=12,
    )
    machines = {"desktop": desktop, "laptop": laptop, "old-desktop": old, "board": board}
    hosts = tuple(_make_cpu(name, cpu) for name, cpu in machines.items())
    # 300 Mb/s and 4 ms: 802.11ac across two rooms.
    return _give_one_server_each(hosts, LinkSpeed(bandwidth_bytes_per_s=37.5e6, round_trip_s=4e-3))


def _make_cpu(name: str, cpu: _Cpu) -> Host:
    """A host that reads at its cache's pace, and beyond twice its size at its memory's."""
    cache = cpu.cache_mib * MIB
    in_cache = 1e9 * cpu.core_cache_gb_per_s
    return Host(
        name=name,
        cores=cpu.cores,
        memory_bytes=round(cpu.memory_gib * GIB),
        one_core_bytes_per_s=Curve(x=(cache, 2 * cache), y=(in_cache, 1e9 * cpu.core_gb_per_s)),
        all_cores_bytes_per_s=Curve(
            x=(cache, 2 * cache), y=(cpu.cores * in_cache, 1e9 * cpu.memory_gb_per_s)
        ),
        rates=_scale_rates(cpu.gmacs_per_s, cpu.cores),
        # Assumed, as for local-N.
        call_overhead_s=150e-6,
        layer_overhead_s=100e-6,
        watts=cpu.watts,
        cache_bytes=round(cache),
    )


def _give_one_server_each(hosts: tuple[Host, ...], link: LinkSpeed) -> Cluster:
    """A server on each host with all of its cores, and nine tenths of its memory."""
    servers = tuple(
        Server(
            name=host.name,
            host=host.name,
            threads=host.cores,
            memory_bytes=host.memory_bytes * 9 // 10,
        )
        for host in hosts
    )
    return Cluster(hosts=hosts, servers=servers, default_link=link)


_MAKERS: dict[str, Callable[[], Cluster]] = {
    "seed-h100-50mb": _make_seed_claimed,
    "seed-h100-32mb": _make_seed_measured,
    "epyc-8": _make_epycs,
    "home": _make_home,
}
