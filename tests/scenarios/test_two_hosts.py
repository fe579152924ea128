"""Two hosts that share no loopback: network namespaces joined by a virtual cable."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from partwise.cli.main import main

ADDRESSES = ("10.213.77.1", "10.213.77.2")
PORT = 7070
OPTIONS = ("Once upon a time", "--raw", "--max-tokens", "20", "--threads", "1", "--json")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def in_host(host: str, *words: str) -> list[str]:
    """The command line that runs partwise in a namespace."""
    return ["ip", "netns", "exec", host, sys.executable, "-m", "partwise.cli.main", *words]


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two namespaces of this test's own, each with one of ADDRESSES."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    key = secrets.token_hex(3)
    names = (f"partwise-{key}-a", f"partwise-{key}-b")
    cables = (f"pw{key}a", f"pw{key}b")
    made = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip(
                "link", "add", cables[0], "netns", names[0],
                "type", "veth", "peer", "name", cables[1], "netns", names[1],
            )  # fmt: skip
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"this machine permits no network namespaces: {exc.stderr.decode()}")
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")  # its own: a host reaches itself by it
        yield names
    finally:
        for name in made:
            ip("netns", "delete", name)


def test_two_hosts_give_the_answer_of_one(
    hosts: tuple[str, str],
    tiny_llama: Path,
    tmp_path: Path,
    thread_servers,
    capsys: pytest.CaptureFixture[str],
    started,
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(secrets.token_hex(32))
    token = ("--token-file", str(token_file))
    servers = [
        subprocess.Popen(
            in_host(host, "server", "--listen", f"{address}:{PORT}", "--name", host, *token),
            stderr=subprocess.PIPE,
            text=True,
        )
        for host, address in zip(hosts, ADDRESSES, strict=True)
    ]
    try:
        for server, host, address in zip(servers, hosts, ADDRESSES, strict=True):
            line = server.stderr.readline()
            assert line.startswith(f"server {host} listens on {address}:{PORT} (clients prove")
        addresses = ",".join(f"{address}:{PORT}" for address in ADDRESSES)
        words = ("generate", str(tiny_llama), *OPTIONS, "--servers", addresses, *token)
        answer = subprocess.run(
            in_host(hosts[0], *words), capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        for server in servers:
            server.terminate()
            server.communicate(timeout=10)
    assert answer.returncode == 0, answer.stderr
    assert "neither encrypted nor protected against changes" in answer.stderr
    assert [server.returncode for server in servers] == [0, 0]
    there = json.loads(answer.stdout)
    assert main(["generate", str(tiny_llama), *OPTIONS, *thread_servers.options]) == 0
    here = json.loads(capsys.readouterr().out)
    assert there["token_ids"] == here["token_ids"]
    assert [part["layers"] for part in there["parts"]] == [part["layers"] for part in here["parts"]]
    assert len(there["parts"]) == 2
    assert all(part["hop_ms_per_token"] < 1_000 for part in there["parts"])
