"""Two hosts of one machine: network namespaces joined by a virtual cable of a given bandwidth.

Needs root, iproute2 and a kernel with tbf. What it makes it takes away again.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = ("10.213.78.1", "10.213.78.2")
BURST, LATENCY = "32kb", "200ms"
"""What may leave at once, and how long bytes may queue: 2.5 MB at 100 Mbit/s, nothing is lost."""


@contextmanager
def two_hosts(mbit_per_s: float) -> Iterator[tuple[str, str]]:
    """The namespaces' names, each with one of ADDRESSES; both directions are shaped."""
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
            _run("ip", "-n", name, "link", "set", cable, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")  # a host reaches itself by it
            _run(
                "tc", "-n", name, "qdisc", "add", "dev", cable, "root", "tbf",
                "rate", f"{mbit_per_s:g}mbit", "burst", BURST, "latency", LATENCY,
            )  # fmt: skip
        yield names
    finally:
        for name in made:
            _run("ip", "netns", "delete", name)


def _run(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, timeout=10)
    except subprocess.CalledProcessError as exc:
        raise OSError(f"{' '.join(words)}: {exc.stderr.decode().strip()}") from exc
