"""`partwise probe` from its arguments to its two streams and its files."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from partwise.cli.main import main
from partwise.cluster import Curve, Rates, Streaming
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import read_host
from partwise.part.runner import Runner, RunnerOptions
from partwise.probe import link, probing
from partwise.probe.figures import Figure
from partwise.probe.machine import Others
from partwise.probe.probing import Probe
from partwise.probe.spread import Spread
from partwise.remote.tcp import TcpTransport
from support.parts import Servers

FLAT = Curve(x=(1.0, 4.0), y=(20e9, 10e9))
STREAMING = Streaming(inputs=512, one_core_bytes_per_s=FLAT, all_cores_bytes_per_s=FLAT)
HOST = replace(
    preset("local-2").hosts[0],
    rates={
        "fp32": Rates(one_core_macs_per_s=FLAT, all_cores_macs_per_s=FLAT, streaming=(STREAMING,))
    },
    store_bytes_per_s=2e9,
)


def make_probe(busy_cores: float = 0.0) -> Probe:
    value = Spread(median=2e9, low=1.9e9, high=2.1e9)
    return Probe(
        host=HOST,
        figures=(Figure(name="one_core: read 1 bytes, bytes_per_s", value=value),),
        others=Others(busy_cores=busy_cores, load_average_1_min=1.5),
        took_s=21.0,
    )


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The stores that were asked about; nothing is measured."""
    asked: list[Path] = []

    def probe_machine(store: Path, on_progress, **_: object) -> Probe:
        asked.append(store)
        on_progress("measuring", 1, 1)
        return make_probe()

    monkeypatch.setattr(probing, "probe_machine", probe_machine)
    return asked


def test_the_host_file_is_what_local_n_is_cut_from(
    stores: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "host.toml"
    assert main(["probe", "--out", str(path), "--store", "/mnt/models"]) == 0
    assert read_host(path) == HOST
    assert stores == [Path("/mnt/models")]
    streams = capsys.readouterr()
    assert "local: 2 cores, 16.0 GiB of memory, 12 MiB read fast" in streams.out
    assert "the store's disk 2.00 GB/s" in streams.out
    assert "quartiles lie 10.0% apart typically" in streams.err
    assert "warning" not in streams.err
    assert main(["cluster", "show", "local-2", "--host", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["hosts"][0]["rates"]["fp32"]["streaming"][0]["one_core"] == {
        "rows": [1.0, 4.0],
        "bytes_per_s": [20e9, 10e9],
    }


def test_the_json_holds_the_host_every_spread_and_who_disturbed(
    stores: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["host"]["cores"] == 2
    assert document["figures"] == [
        {
            "name": "one_core: read 1 bytes, bytes_per_s",
            "median": 2e9,
            "low_quartile": 1.9e9,
            "high_quartile": 2.1e9,
        }
    ]
    assert document["is_busy"] is False
    assert document["load_average_1_min"] == 1.5
    assert stores == [Path()]


def test_a_busy_machine_is_told_so_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probing, "probe_machine", lambda *_, **__: make_probe(busy_cores=1.5))
    assert main(["probe", "--json"]) == 0
    streams = capsys.readouterr()
    assert "warning: the machine was busy: 1.5 of 2 cores were in use" in streams.err
    assert "stop other work and probe again" in streams.err
    assert json.loads(streams.out)["is_busy"] is True


def test_the_plot_is_drawn(stores: list[Path], tmp_path: Path) -> None:
    assert main(["probe", "--plot", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "nowhere/host.toml"], "cannot write the host file nowhere/host.toml: No such"),
        (["--out", "."], "cannot write the host file .: Is a directory; give --out a path"),
        (["--plot", "nowhere/a.png"], "cannot write the plot nowhere/a.png: No such file"),
        (["--plot", "a.exe"], "--plot a.exe ends in .exe: give a path ending in .png or .svg"),
        (["--plot", "a"], "--plot a has no ending"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    words: list[str], message: str, stores: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", *words]) in (1, 2)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert stores == []


def test_what_was_measured_is_printed_before_it_is_written(
    stores: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("partwise.cli.probe.check_paths", lambda args: None)
    assert main(["probe", "--out", str(tmp_path / "nowhere" / "host.toml")]) == 1
    streams = capsys.readouterr()
    assert "local: 2 cores, 16.0 GiB" in streams.out
    assert "cannot write the host file" in streams.err.splitlines()[-1]


def test_it_is_said_which_matrices_are_read_from_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = replace(STREAMING, inputs=8192)
    rates = replace(HOST.rates["fp32"], streaming=(STREAMING, wide))
    probe = replace(make_probe(), host=replace(HOST, rates={"fp32": rates}))
    monkeypatch.setattr(probing, "probe_machine", lambda *_, **__: probe)
    assert main(["probe"]) == 0
    line = "from memory: in matrices of 8,192 inputs, the widest measured (512: see --json)"
    assert line in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--token-file", "t"], 2, "--token-file is for --link"),
        (["--link", "lab:1"], 2, "--link needs --token-file"),
        (["--link", "lab", "--token-file", "t"], 2, "'lab' is not HOST:PORT"),
        (["--link", "lab:1", "--token-file", "t", "--out", "x"], 2, "--out is for measuring this"),
        (["--link", "lab:1", "--token-file", "t", "--store", "x"], 2, "--store is for measuring"),
    ],
)
def test_wrong_options_are_one_line(
    words: list[str],
    code: int,
    message: str,
    stores: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["probe", *words]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("partwise: ")
    assert message in last


def refuse_to_load(options: RunnerOptions) -> Runner:
    raise AssertionError("a probe assigns no part")


def test_a_link_is_a_table_of_a_cluster_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(link, "LEAST_TRANSFER_S", 0.01)
    (tmp_path / "token").write_text("t" * 64)
    servers = Servers(["lab"], TcpTransport(b"t" * 64), refuse_to_load)
    address = str(servers.addresses["lab"])
    try:
        words = ["probe", "--link", address, "--token-file", str(tmp_path / "token")]
        assert main(words) == 0
        [table] = tomllib.loads(capsys.readouterr().out)["links"]
        assert table.keys() == {"between", "bandwidth_gb_per_s", "round_trip_us"}
        assert table["between"][1] == address
        assert main([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["bandwidth_bytes_per_s"]["median"] > 1e6
        assert document["round_trip_s"]["low_quartile"] > 0
    finally:
        servers.stop()
        servers.join()
