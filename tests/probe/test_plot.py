"""The picture of a host's bandwidth."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from partwise.cluster.presets import preset
from partwise.errors import ProbeError, UsageError
from partwise.probe.plot import check_ending, plot_bandwidth, require_matplotlib

HOST = preset("local-2").hosts[0]


def test_it_is_written_in_the_format_that_the_path_names(tmp_path: Path) -> None:
    plot_bandwidth(HOST, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    plot_bandwidth(HOST, tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert "<svg" in text


@pytest.mark.parametrize("name", ["curve.exe", "nowhere/curve.png"])
def test_a_path_that_takes_no_picture_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=f"cannot write the plot .*{name}: .*png or .svg"):
        plot_bandwidth(HOST, tmp_path / name)


@pytest.mark.parametrize(("name", "says"), [("a.exe", "ends in .exe"), ("a", "has no ending")])
def test_an_ending_that_names_no_format_is_refused(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"{says}: give a path ending in .png or .svg"):
        check_ending(Path(name))
    check_ending(Path("a.PNG"))
    check_ending(Path("a.svg"))


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"--plot needs matplotlib: `pip install 'partwise\[plot"):
        require_matplotlib()
