"""Two hosts of one machine: network namespaces joined by a virtual cable of a given bandwidth.

Needs root, iproute2 and a kernel with tbf. What it makes it takes away again.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ADDRESSES = ("10.213.78.1", "10.213.78.2")
BURST, LATENCY = "32kb", "200ms"
"""What may leave at once, and how long bytes may queue: 2.5 MB at 100 Mbit/s, nothing is lost."""
CLONE_NEWNET = 0x40000000
"""Of <sched.h>."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoHosts:
    """The namespaces' names, and the end of the cable in each; each has one of ADDRESSES."""

    names: tuple[str, str]
    cables: tuple[str, str]

    def limit(self, mbit_per_s: float | None, burst: str = BURST) -> None:
        """From now on both directions carry so much (None: what the machine can), and ``burst``
        at once after a pause."""
        words = ["pfifo"]
        if mbit_per_s is not None:
            words = ["tbf", "rate", f"{mbit_per_s:g}mbit", "burst", burst, "latency", LATENCY]
        for name, cable in zip(self.names, self.cables, strict=True):
            _run("tc", "-n", name, "qdisc", "replace", "dev", cable, "root", *words)

    def give(self, side: int, address: str) -> None:
        """Let one host have another address, which the other one does not see."""
        _run("ip", "-n", self.names[side], "address", "add", f"{address}/32", "dev", "lo")


def can_make_hosts() -> bool:
    """Whether `two_hosts` has what it needs, but for the kernel's tbf."""
    return os.geteuid() == 0 and all(shutil.which(word) for word in ("ip", "tc"))


@contextmanager
def two_hosts(mbit_per_s: float | None, mtu: int = 1500) -> Iterator[TwoHosts]:
    """Two hosts whose cable carries so much both ways, in packets of at most ``mtu`` bytes."""
    key = secrets.token_hex(3)
    names = (f"partwise-{key}-a", f"partwise-{key}-b")
    cables = (f"pw{key}a", f"pw{key}b")
    made = []
    try:
        for name in names:
            _run("ip", "netns", "add", name)
            made.append(name)
        _run(
            "ip", "link", "add", cables[0], "netns", names[0],
            "type", "veth", "peer", "name", cables[1], "netns", names[1],
        )  # fmt: skip
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", cable)
            _run("ip", "-n", name, "link", "set", cable, "mtu", str(mtu), "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")  # a host reaches itself by it
        hosts = TwoHosts(names=names, cables=cables)
        hosts.limit(mbit_per_s)
        yield hosts
    finally:
        for name in made:
            _run("ip", "netns", "delete", name)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, and those and the processes that it starts, are on the host ``name``."""
    with Path("/proc/self/ns/net").open("rb") as home:
        with Path(f"/run/netns/{name}").open("rb") as there:
            _set_network(there.fileno())
        try:
            yield
        finally:
            _set_network(home.fileno())


def _set_network(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _run(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, timeout=10)
    except subprocess.CalledProcessError as exc:
        raise OSError(f"{' '.join(words)}: {exc.stderr.decode().strip()}") from exc
