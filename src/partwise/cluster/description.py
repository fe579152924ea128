"""Hosts, the servers on them, and the links between them, as values checked where they are made.

Nothing here measures; `toml_file.py` reads and writes it, `presets.py` makes well-known ones.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from partwise.cluster.checks import (
    LEAST,
    MOST,
    check_name,
    check_numbers,
    check_times,
    list_names,
    refuse_duplicates,
)
from partwise.errors import ClusterError

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
"""What weights can be held at, as `distributor/workload.py` counts their bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A quantity ``y`` measured at points ``x``, which ascend; all are above 0."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.y):
            raise ClusterError(
                f"a curve has {len(self.x)} points and {len(self.y)} values: give one value for"
                " each of at least 1 point"
            )
        if any(a >= b for a, b in itertools.pairwise(self.x)):
            raise ClusterError(f"a curve's points {list_names(self.x)} do not ascend: sort them")
        wrong = [v for v in (*self.x, *self.y) if not (math.isfinite(v) and v > 0)]
        if wrong:
            raise ClusterError(f"a curve holds {wrong[0]:g}: give finite numbers above 0")
        beyond = [v for v in (*self.x, *self.y) if not LEAST <= v <= MOST]
        if beyond:
            raise ClusterError(
                f"a curve holds {beyond[0]:g}: give numbers from {LEAST:g} to {MOST:g}; is the"
                " unit right?"
            )

    def at(self, x: float) -> float:
        """The value at ``x``: linear in log x between two points, flat outside them."""
        right = bisect.bisect_left(self.x, x)
        if right == 0 or right == len(self.x):
            return self.y[min(right, len(self.y) - 1)]
        low, high = self.x[right - 1], self.x[right]
        share = math.log(x / low) / math.log(high / low)
        return self.y[right - 1] + share * (self.y[right] - self.y[right - 1])

    def non_increasing(self) -> Curve:
        """The least curve over this one that never rises.

        A disturbed measurement is too low, never too high: so points rise to their right.
        """
        y = tuple(itertools.accumulate(reversed(self.y), max))
        return Curve(x=self.x, y=y[::-1])

    def non_decreasing(self) -> Curve:
        """The least curve over this one that never falls."""
        return Curve(x=self.x, y=tuple(itertools.accumulate(self.y, max)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """How fast a host's kernels read weights that no cache holds, over the rows of a pass, in
    matrices with so many ``inputs``: kernels depend on both.

    Columns as in `Rates`, in bytes of weights per second.
    """

    inputs: int
    one_core_bytes_per_s: Curve
    all_cores_bytes_per_s: Curve
    one_server_bytes_per_s: Curve | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """What a runner spends besides reading and arithmetic: on a call, on each layer of it, and
    on each row of a layer."""

    call_s: float = 0.0
    layer_s: float = 0.0
    row_s: float = 0.0

    def __post_init__(self) -> None:
        times = {"call_s": self.call_s, "layer_s": self.layer_s, "row_s": self.row_s}
        check_times("the overheads of a runner", times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a host computes at one precision, over the rows of a pass, with weights that its
    caches hold: multiply-accumulates per second.

    By one core; by all cores, each by itself, together; and by one server with a thread on
    each core (None: as all cores), which may be far less: kernels do not split every pass.
    ``streaming`` (none: as fast as memory) is for weights that no cache holds, by ascending
    numbers of inputs. ``overheads`` (None: the host's) are those of the runner that computes at
    this precision.
    """

    one_core_macs_per_s: Curve
    all_cores_macs_per_s: Curve
    one_server_macs_per_s: Curve | None = None
    streaming: tuple[Streaming, ...] = ()
    overheads: Overheads | None = None

    def __post_init__(self) -> None:
        inputs = [streaming.inputs for streaming in self.streaming]
        if inputs != sorted(set(inputs)):
            raise ClusterError(f"streaming is given for {list_names(inputs)} inputs: sort them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine, whose cores, caches and memory bandwidth its servers share.

    The bandwidths are read over the working set in bytes: of that core alone, and of all
    cores together (not of each). ``rates`` are by precision. A runner call costs
    ``call_overhead_s``, and for each layer in it ``layer_overhead_s``, and ``row_overhead_s``
    for each of its rows. ``watts`` are drawn while it computes. ``cache_bytes`` is the largest
    working set that still reads fast.
    """

    name: str
    cores: int
    memory_bytes: int
    one_core_bytes_per_s: Curve
    all_cores_bytes_per_s: Curve
    rates: Mapping[str, Rates]
    call_overhead_s: float = 0.0
    layer_overhead_s: float = 0.0
    row_overhead_s: float = 0.0
    store_bytes_per_s: float | None = None
    watts: float | None = None
    cache_bytes: int | None = None

    def __post_init__(self) -> None:
        where = f"host {self.name!r}"
        if self.name:  # hosts without one are made to be compared
            check_name("host", self.name)
        numbers = ("cores", "memory_bytes", "store_bytes_per_s", "watts", "cache_bytes")
        check_numbers(where, {key: getattr(self, key) for key in numbers})
        times = ("call_overhead_s", "layer_overhead_s", "row_overhead_s")
        check_times(where, {key: getattr(self, key) for key in times})
        if not self.rates:
            raise ClusterError(f"{where} has no rates: give them for at least one precision")
        for precision in self.rates:
            if precision not in PRECISIONS:
                raise ClusterError(
                    f"{where} has rates for the unknown precision {precision!r}: give them for"
                    f" {', '.join(PRECISIONS)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One process with one device that hosts one part. ``memory_bytes`` it may use."""

    name: str
    host: str
    threads: int
    memory_bytes: int

    def __post_init__(self) -> None:
        check_name("server", self.name)
        numbers = {"threads": self.threads, "memory_bytes": self.memory_bytes}
        check_numbers(f"server {self.name!r}", numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """What joins two servers, in each direction."""

    bandwidth_bytes_per_s: float
    round_trip_s: float

    def __post_init__(self) -> None:
        check_numbers("a link", {"bandwidth_bytes_per_s": self.bandwidth_bytes_per_s})
        check_times("a link", {"round_trip_s": self.round_trip_s})

    def transfer_s(self, num_bytes: float) -> float:
        """Seconds until ``num_bytes`` sent at once have arrived."""
        return self.round_trip_s / 2 + num_bytes / self.bandwidth_bytes_per_s


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Hosts, the servers on them, and what joins them.

    ``links`` are by a pair of servers or a pair of hosts, in either order. Servers of one
    host are joined by ``loopback_link`` where it is given.
    """

    hosts: tuple[Host, ...]
    servers: tuple[Server, ...]
    default_link: LinkSpeed
    links: Mapping[tuple[str, str], LinkSpeed] = field(default_factory=dict)
    loopback_link: LinkSpeed | None = None

    def __post_init__(self) -> None:
        refuse_duplicates("host", (host.name for host in self.hosts))
        refuse_duplicates("server", (server.name for server in self.servers))
        if not self.servers:
            raise ClusterError("the cluster has 0 servers: give at least 1")
        for server in self.servers:
            if server.host not in self._hosts:
                raise ClusterError(
                    f"server {server.name!r} is on host {server.host!r}, which the cluster does"
                    f" not have: its hosts are {list_names(self._hosts)}"
                )
        self._check_memory()
        self._check_links()

    def server(self, name: str) -> Server:
        """The server called ``name``.

        Raises:
            ClusterError: no server has that name.
        """
        if name not in self._servers:
            raise ClusterError(
                f"the cluster has no server {name!r}: its servers are {list_names(self._servers)}"
            )
        return self._servers[name]

    def host_of(self, server_name: str) -> Host:
        """The host of the server called ``server_name``.

        Raises:
            ClusterError: no server has that name.
        """
        return self._hosts[self.server(server_name).host]

    def link(self, a: str, b: str) -> LinkSpeed:
        """What joins the servers ``a`` and ``b``: their own link, that of their hosts, else the
        loopback link on one host, else the default.

        Raises:
            ClusterError: no server has one of the names.
        """
        hosts = self.server(a).host, self.server(b).host
        for pair in ((a, b), hosts):
            found = self.links.get(pair) or self.links.get(pair[::-1])
            if found is not None:
                return found
        if hosts[0] == hosts[1] and self.loopback_link is not None:
            return self.loopback_link
        return self.default_link

    def only(self, names: Sequence[str]) -> Cluster:
        """The cluster of the servers ``names`` alone, in that order, with their hosts.

        Raises:
            ClusterError: no server has one of the names, or none is given, or one twice.
        """
        servers = tuple(self.server(name) for name in names)
        hosts = {server.host for server in servers}
        kept = hosts.union(names)
        return replace(
            self,
            hosts=tuple(host for host in self.hosts if host.name in hosts),
            servers=servers,
            links={pair: link for pair, link in self.links.items() if kept.issuperset(pair)},
        )

    @cached_property
    def _hosts(self) -> dict[str, Host]:
        return {host.name: host for host in self.hosts}

    @cached_property
    def _servers(self) -> dict[str, Server]:
        return {server.name: server for server in self.servers}

    def _check_memory(self) -> None:
        offered = dict.fromkeys(self._hosts, 0)
        for server in self.servers:
            offered[server.host] += server.memory_bytes
        for name, num_bytes in offered.items():
            limit = self._hosts[name].memory_bytes
            if num_bytes > limit:
                raise ClusterError(
                    f"the servers on host {name!r} offer {num_bytes:,} bytes, it has {limit:,}:"
                    " give them less memory each, or the host more"
                )

    def _check_links(self) -> None:
        known = self._servers.keys() | self._hosts.keys()
        for pair in self.links:
            for name in pair:
                if name not in known:
                    raise ClusterError(
                        f"a link joins {pair[0]!r} and {pair[1]!r}, but {name!r} is neither a"
                        f" server nor a host of the cluster: its servers are"
                        f" {list_names(self._servers)}"
                    )
            if pair[::-1] in self.links and pair[0] != pair[1]:
                raise ClusterError(
                    f"the link of {pair[0]!r} and {pair[1]!r} is given twice: keep one"
                )
