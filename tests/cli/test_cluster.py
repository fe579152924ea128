"""`partwise cluster show` from its arguments to its two streams."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from partwise.cli.main import main
from partwise.cluster import Streaming
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import decode_cluster, write_cluster, write_host


def test_the_tables_name_hosts_servers_and_links(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "show", "home"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "host"
    assert any(line.startswith("laptop") and "16.00" in line for line in lines)
    assert any(line.startswith("board        board") for line in lines)
    assert any(line.startswith("default") and "4,000.00" in line for line in lines)


def test_the_json_carries_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "show", "epyc-8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["servers"]) == 8
    assert document["hosts"][0]["cache_bytes"] == 1 << 30
    assert document["hosts"][0]["all_cores"]["bytes_per_s"][-1] == 369e9
    assert document["default_link"] == {"bandwidth_bytes_per_s": 12.5e9, "round_trip_s": 30e-6}
    assert document["loopback_link"] is None


def test_the_toml_is_a_cluster_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["cluster", "show", "local-2", "--toml"]) == 0
    text = capsys.readouterr().out
    assert decode_cluster(text) == preset("local-2")
    (tmp_path / "lab.toml").write_text(text)
    assert main(["cluster", "show", str(tmp_path / "lab.toml"), "--toml"]) == 0
    assert capsys.readouterr().out == text


def test_a_probed_host_is_cut(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    path.write_text(write_host(preset("epyc-8").hosts[3]))
    assert main(["cluster", "show", "local-4", "--host", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [host["name"] for host in document["hosts"]] == ["epyc-3"]
    assert [server["threads"] for server in document["servers"]] == [24] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hom"], "no preset is called 'hom': give one of local-N,"),
        (["lab.toml"], "there is no cluster file lab.toml"),
        (["home", "--host", "HOST"], "'home' has its own hosts"),
        (["local-2", "--host", "CLUSTER"], "the file has 8 hosts: give a file with 1"),
        (["CLUSTER", "--host", "HOST"], "has its own hosts: give --host to local-N alone"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"HOST": tmp_path / "host.toml", "CLUSTER": tmp_path / "cluster.toml"}
    files["HOST"].write_text(write_host(preset("local-1").hosts[0]))
    files["CLUSTER"].write_text(write_cluster(preset("epyc-8")))
    words = [str(files.get(word, word)) for word in words]
    assert main(["cluster", "show", *words]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_what_local_n_is_made_of_is_said_where_nobody_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["cluster", "show", "local-2", "--json"]) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out)["hosts"][0]["name"] == "local"
    note = "typical figures, not this machine's: `partwise probe --out host.toml`, then --host"
    assert streams.err == f"note: local-2 has {note} host.toml\n"
    path = tmp_path / "host.toml"
    path.write_text(write_host(preset("local-2").hosts[0]))
    for words in (["local-2", "--host", str(path)], ["home"]):
        assert main(["cluster", "show", *words]) == 0
        assert capsys.readouterr().err == ""


def test_a_folder_does_not_hide_the_preset_of_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["cluster", "show", "home"]) == 0
    assert "laptop" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "there is no cluster without a name: give another, or a preset (local-N,"),
        ("a" * 5000, "no preset is called 'aaa"),
        ("local-999999", "local-999999 cuts a machine in more than 1,024 servers: give local-1024"),
    ],
)
def test_names_of_no_cluster_are_one_short_line(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "show", name]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert len(err) < 300


def test_equal_hosts_share_their_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "show", "seed-h100-32mb"]) == 0
    hosts, rates, servers, _ = capsys.readouterr().out.split("\n\n")
    assert [line.split("  ")[0] for line in hosts.splitlines()[2:]] == ["h100-0 and 15 like it"]
    assert len(rates.splitlines()) == 2 + 5
    assert len(servers.splitlines()) == 2 + 16


def test_everything_that_a_host_file_says_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    host = preset("local-2").hosts[0]
    rates = host.rates["fp32"]
    curve = rates.all_cores_macs_per_s
    streaming = Streaming(inputs=512, one_core_bytes_per_s=curve, all_cores_bytes_per_s=curve)
    rates = replace(rates, one_server_macs_per_s=curve, streaming=(streaming,))
    host = replace(host, rates={"fp32": rates}, store_bytes_per_s=2.5e9, row_overhead_s=3e-6)
    (tmp_path / "host.toml").write_text(write_host(host))
    assert main(["cluster", "show", "local-2", "--host", str(tmp_path / "host.toml")]) == 0
    hosts, rated, streamed, *_ = capsys.readouterr().out.split("\n\n")
    cells = dict(zip(*(line.split() for line in (HEADINGS, hosts.splitlines()[2])), strict=True))
    assert (cells["store"], cells["call"], cells["layer"], cells["row"]) == (
        *("2.50", "150.00", "100.00", "3.00"),
    )
    assert [line.split()[2:4] for line in rated.splitlines()[2:]] == [
        ["all", "cores"],
        ["one", "server"],
    ]
    assert streamed.splitlines()[2].split()[:3] == ["local", "fp32", "512"]


HEADINGS = "host cores memory cache fast slow store call layer row"
