"""`partwise cluster show` from its arguments to its two streams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partwise.cli.main import main
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
