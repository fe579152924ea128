"""`partwise generate --cluster`: what was expected stands beside what was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from partwise import deployment
from partwise.cli.expectation import Expectation, choose_threads
from partwise.cli.main import main
from partwise.cli.report import render_expected
from partwise.cluster import Cluster
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import write_cluster
from partwise.distributor import balance_layers, encode_plan
from partwise.distributor.cost import predict
from partwise.distributor.plan import Plan
from partwise.distributor.workload import Workload
from partwise.engine.prepared import prepare
from partwise.model import open_model


def name_servers(*names: str, threads: tuple[int, ...] = (1, 1)) -> Cluster:
    """Two servers of one machine of these names."""
    cluster = preset("local-2")
    servers = tuple(
        replace(server, name=name, threads=count)
        for server, name, count in zip(cluster.servers, names, threads, strict=True)
    )
    return replace(cluster, servers=servers)


def write(folder: Path, cluster: Cluster) -> str:
    path = folder / "lab.toml"
    path.write_text(write_cluster(cluster))
    return str(path)


@pytest.fixture
def run(tiny_llama: Path, thread_servers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Generate over two servers that listen, which a cluster file names; stdout and stderr."""
    path = write(tmp_path, name_servers(*thread_servers.addresses))

    def run(*words: str) -> tuple[str, str]:
        options = ["--cluster", path, "--token-file", str(thread_servers.token_file)]
        assert main(["generate", str(tiny_llama), "Once upon", "--raw", *options, *words]) == 0
        return capsys.readouterr()

    return run


def test_the_figures_expected_stand_beside_those_measured(run) -> None:
    _, err = run("--max-tokens", "8")
    lines = err.splitlines()
    header = next(line for line in lines if line.startswith("part   server"))
    assert header.endswith("expected ms/token")
    pattern = r"expected [\d.]+ tokens/s, measured [\d.]+: the expectation was \d+ % too (high|low)"
    assert re.fullmatch(pattern, lines[-1])


def test_the_expectation_is_the_cost_models_for_what_was_decoded(
    run, tiny_llama: Path, thread_servers: Any, tmp_path: Path
) -> None:
    plan = balance_layers(open_model(tiny_llama), thread_servers.addresses[::-1])
    path = tmp_path / "plan.json"
    path.write_bytes(encode_plan(plan))
    document = json.loads(run("--max-tokens", "8", "--plan", str(path), "--json")[0])
    cluster = name_servers(*thread_servers.addresses)
    # The middle of the tokens decoded has half of this context behind it.
    context_tokens = 2 * document["prompt_tokens"] + len(document["token_ids"])
    workload = Workload(context_tokens=context_tokens)
    prediction = predict(plan, open_model(tiny_llama), cluster, workload)
    assert document["expected_decode_tokens_per_s"] == prediction.tokens_per_s
    expected = [part["expected_compute_ms_per_token"] for part in document["parts"]]
    assert expected == [1e3 * cost.compute_s for cost in prediction.parts]


def test_servers_get_no_more_threads_than_their_host_has_for_them(smollm2: Path) -> None:
    cluster = name_servers("10.0.0.5:7070", "10.0.0.5:7071", threads=(8, 8))
    plan = balance_layers(open_model(smollm2), [server.name for server in cluster.servers])
    for cores, threads in ((1, 1), (2, 1), (4, 2), (64, 8)):
        hosts = tuple(replace(host, cores=cores) for host in cluster.hosts)
        assert choose_threads(plan, replace(cluster, hosts=hosts)) == threads


def test_an_expectation_is_for_the_threads_that_run(smollm2: Path) -> None:
    model, cluster = open_model(smollm2), replace(preset("local-4"))
    plan = balance_layers(model, ["local-0", "local-1"])
    one, two = (
        Expectation(plan=plan, model=model, cluster=cluster, threads=threads).predict(10, 10)
        for threads in (1, 2)
    )
    assert two.tokens_per_s > 1.2 * one.tokens_per_s


def test_a_plan_made_for_a_cluster_runs_on_the_servers_that_it_uses(
    tiny_llama: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    words = ["plan", str(tiny_llama), "--cluster", "local-3", "--only", "local-2"]
    assert main([*words, "--out", str(path)]) == 0
    from partwise.distributor import read_plan

    prepared = prepare(tiny_llama, parts=None, servers=(), plan=read_plan(path))
    assert [part.server for part in prepared.plan.parts] == ["local-2"]


def test_a_rate_that_nobody_measured_is_not_invented() -> None:
    assert render_expected(20.0, None).startswith("expected 20.0 tokens/s, measured none")
    assert render_expected(20.0, 25.0).endswith("measured 25.0: the expectation was 20 % too low")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--cluster", "home"], 1, "unknown server '"),
        (["--cluster", "absent.toml"], 1, "there is no cluster file absent.toml"),
        (["--cluster", "UNEVEN"], 2, "have 1, 2 threads, a run gives all the same: give --threads"),
        (["--cluster", "LISTENING"], 2, "that listen need --token-file"),
        (["--host", "host.toml"], 2, "--host is for --cluster local-N"),
        (["--cluster", "local-2", "--parts", "3"], 2, "3 parts and a plan of 2"),
        (["--cluster", "local-2", "--plan", "SPARSE"], 1, "without 50 % of its MLP units"),
        (["--cluster", "local-2", "--plan", "INT8"], 1, "part0 is at int8: the torch runner"),
        (["--cluster", "local-2", "--plan", "OTHER"], 1, "the cluster has no server 'local-7'"),
    ],
)
def test_what_cannot_run_is_refused_before_a_server_starts(
    words: list[str],
    code: int,
    message: str,
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deployment, "LocalServers", lambda *_: pytest.fail("a server starts"))
    model = open_model(tiny_llama)
    files = {
        "UNEVEN": lambda: write(tmp_path, name_servers("local-0", "local-1", threads=(1, 2))),
        "LISTENING": lambda: write(tmp_path, name_servers("10.0.0.5:7070", "10.0.0.6:7070")),
        "SPARSE": lambda: write_plan(tmp_path, reduce(balance_layers(model, ["local-0"]))),
        "INT8": lambda: write_plan(
            tmp_path,
            balance_layers(
                open_model(tiny_llama), ["local-0", "local-1"], precision="int8", runner="torch"
            ),
        ),
        "OTHER": lambda: write_plan(tmp_path, balance_layers(open_model(tiny_llama), ["local-7"])),
    }
    words = [files[word]() if word in files else word for word in words]
    capsys.readouterr()
    assert main(["generate", str(tiny_llama), "hi", *words]) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: local-")]
    assert (out, len(lines)) == ("", 1)
    assert message in err


def reduce(plan: Plan) -> Plan:
    """Without half of the MLP units."""
    parts = tuple(msgspec.structs.replace(part, mlp_sparsity=0.5) for part in plan.parts)
    return msgspec.structs.replace(plan, parts=parts)


def test_a_plan_that_shares_neurons_runs_and_what_it_exchanged_is_told(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_plan(tiny_llama, tmp_path, "--strategy", "count")
    capsys.readouterr()
    words = ["--max-tokens", "4", "--cluster", "local-2", "--plan", path, "--json"]
    assert main(["generate", str(tiny_llama), "Once upon", "--raw", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["token_ids"]) == 4
    assert document["expected_decode_tokens_per_s"] > 0
    for part in document["parts"]:
        assert part["links"] == []
        assert part["exchange"]["calls"] > 4
        assert part["exchange"]["sent_bytes_per_token"] > 0


def make_plan(model: Path, folder: Path, *words: str) -> str:
    path = str(folder / "plan.json")
    assert main(["plan", str(model), "--cluster", "local-2", "--out", path, *words]) == 0
    return path


def write_plan(folder: Path, plan: Plan) -> str:
    path = folder / "plan.json"
    path.write_bytes(encode_plan(plan))
    return str(path)
