"""Tokens per second of two parts on two hosts joined by a slow link: fp32 against another codec.

The hosts are network namespaces of this machine, a processor each. Servers of both sides are
deployed once and stay; each round runs both, in a changing order. The coordinator is on the
first part's host, as the cost model takes it to be.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import partwise
from decode import decode
from namespaces import ADDRESSES, two_hosts
from part_servers import Place, start_server
from partwise.cluster import Cluster
from partwise.cluster.description import LinkSpeed
from partwise.cluster.presets import preset
from partwise.distributor import balance_layers
from partwise.distributor.codecs import choose_codecs
from partwise.distributor.cost import predict
from partwise.distributor.plan import Plan
from partwise.distributor.problem import Problem
from partwise.distributor.workload import Workload
from partwise.model import open_model
from rounds import Run, take_rounds

FIRST_PORT = 7070
STREAMS = 16
PROMPT_IDS = tuple(range(1, 17))
ROUND_TRIP_S = 100e-6


def choose(path: Path, mbit_per_s: float) -> tuple[str, float, float]:
    """The codec that the distributor chooses, and the tokens per second that it predicts with
    fp32 and with that."""
    cluster = _describe(mbit_per_s)
    problem = Problem(
        model=open_model(path),
        cluster=cluster,
        workload=Workload(streams=STREAMS, context_tokens=256),
        servers=tuple(server.name for server in cluster.servers),
    )
    plain = balance_layers(problem.model, list(problem.servers))
    chosen = choose_codecs(plain, problem)

    def rate(plan: Plan) -> float:
        return predict(plan, problem.model, cluster, problem.workload).tokens_per_s

    return chosen.links[0].codec, rate(plain), rate(chosen)


def _describe(mbit_per_s: float) -> Cluster:
    """Two hosts of one processor each, like the one that the preset was measured on."""
    local = preset("local-1")
    host, server = local.hosts[0], local.servers[0]
    return replace(
        local,
        hosts=tuple(replace(host, name=name) for name in "ab"),
        servers=tuple(replace(server, name=f"server-{name}", host=name) for name in "ab"),
        default_link=LinkSpeed(
            bandwidth_bytes_per_s=mbit_per_s * 1e6 / 8, round_trip_s=ROUND_TRIP_S
        ),
    )


def compare(
    path: Path, mbit_per_s: float, codec: str, *, num_rounds: int, num_tokens: int
) -> dict[str, Any]:
    """Rounds of tokens per second with fp32 and with ``codec``, and what the links then did."""
    options: dict[str, Any] = {"model": str(path), "codecs": ["fp32", codec], "rounds": num_rounds,
               "tokens": num_tokens}  # fmt: skip
    with two_hosts(mbit_per_s) as hosts, tempfile.TemporaryDirectory() as folder:
        token_file = Path(folder) / "token"
        token_file.write_text(secrets.token_hex(32))
        options["token_file"] = str(token_file)
        with ExitStack() as stack:
            pids = options["pids"] = []
            for number in range(len(options["codecs"])):
                for cpu, (host, address) in enumerate(zip(hosts.names, ADDRESSES, strict=True)):
                    where = f"{address}:{FIRST_PORT + number}"
                    place = Place(host=host, cpu=cpu)
                    server = stack.enter_context(start_server(place, where, token_file))
                    pids.append(server.pid)
            words = ["ip", "netns", "exec", hosts.names[0], sys.executable, __file__]
            done = subprocess.run(
                [*words, json.dumps(options)], check=True, stdout=subprocess.PIPE, timeout=600
            )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def work(options: dict[str, Any]) -> dict[str, Any]:
    """What runs on the first host: deploys both sides and takes the rounds."""
    with ExitStack() as stack:
        nets = {}
        for number, codec in enumerate(options["codecs"]):
            servers = [f"{address}:{FIRST_PORT + number}" for address in ADDRESSES]
            deploy_options = partwise.DeployOptions(
                threads=1, codec=codec, token_file=Path(options["token_file"])
            )
            net = partwise.deploy(options["model"], servers=servers, options=deploy_options)
            nets[codec] = stack.enter_context(net)

        def run(net: partwise.Net) -> Run:
            return Run(
                measure=lambda: decode(net, PROMPT_IDS, STREAMS, options["tokens"]),
                pids=tuple(options["pids"]),
            )

        speeds = take_rounds({c: run(net) for c, net in nets.items()}, options["rounds"])
        return {"speeds": speeds, "parts": {c: _describe_parts(n) for c, n in nets.items()}}


def _describe_parts(net: partwise.Net) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [asdict(part) for part in net.reports()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("options", help="what `compare` asks for, as JSON")
    print(json.dumps(work(json.loads(parser.parse_args().options))))
