"""The cache-fit bench's CUDA part, as far as no device is needed, and the page of both parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import cache_fit
import cache_fit_cuda as bench
from cache_fit_page import PAGE, RESULTS, list_tables
from experiments.page import fill_page
from harness import RESULTS as FOLDER

MB, H100_L2_BYTES = 1_000_000, 50 * 1024 * 1024
RUN = bench.CudaRun(
    device="some card",
    l2_bytes=H100_L2_BYTES,
    machine={"processors": 2},
    layers=tuple(
        bench.CudaLayer(
            tokens=tokens,
            layer_bytes=size * MB,
            num_copies=9,
            resident_s=(2e-6, 2e-6),
            rotated_s=(gain * 2e-6, gain * 2e-6),
        )
        for tokens, size, gain in [(1, 8, 1.5), (1, 24, 1.4), (1, 64, 1.1), (512, 8, 1.0)]
    ),
)


@pytest.mark.parametrize("size_mb", bench.SIZES_MB)
def test_a_layer_has_the_seed_s_width_and_the_size_asked_for(size_mb: int) -> None:
    units = bench.choose_units(size_mb)
    layer = bench.make_layer(units, "meta")
    assert units % 64 == 0
    assert units <= 16384
    assert [tuple(p.shape) for p in layer.parameters()] == [(units, 4096), (4096, units)]
    assert bench.count_bytes(layer) == units * bench.UNIT_BYTES
    assert bench.count_bytes(layer) == pytest.approx(size_mb * MB, rel=0.07)


@pytest.mark.parametrize("size_mb", [*bench.SIZES_MB, 1000])
@pytest.mark.parametrize("l2_bytes", [4 * MB, H100_L2_BYTES, 128 * MB])
def test_what_is_read_before_a_copy_s_next_turn_is_far_larger_than_the_cache(
    size_mb: int, l2_bytes: int
) -> None:
    layer_bytes = bench.choose_units(size_mb) * bench.UNIT_BYTES
    num_copies = bench.count_copies(layer_bytes, l2_bytes)
    assert num_copies >= 2
    assert num_copies * layer_bytes >= 8 * l2_bytes
    turns = bench.list_turns(num_copies)
    assert len(turns) >= bench.LEAST_CALLS
    for number, turn in enumerate(turns[:-num_copies]):
        assert turns.index(turn, number + 1) == number + num_copies
    assert set(turns) == set(range(num_copies))


def test_a_resident_layer_is_called_every_time() -> None:
    assert bench.list_turns(1) == [0] * bench.LEAST_CALLS


def test_a_layer_can_be_called_with_the_hidden_state() -> None:
    hidden = torch.ones(3, 4096, dtype=torch.bfloat16, device="meta")
    assert bench.make_layer(64, "meta")(hidden).shape == (3, 4096)


def test_figures_are_of_layers_that_fit_of_larger_ones_and_of_those_bound_by_computing() -> None:
    assert bench.summarize_cuda(RUN) == pytest.approx(
        {"cuda_gain_fitting": 1.5, "cuda_gain_larger": 1.1, "cuda_computing_gain": 1.0}
    )
    assert bench.summarize_cuda(None) == {}


def test_a_run_is_put_beside_the_other_results_and_read_again(tmp_path: Path) -> None:
    document = {"fp32_gain": 1.2, "cuda_gain_fitting": 9.0, "rounds": {"parts": [1]}}
    assert bench.read_cuda(document) is None
    written = json.loads(json.dumps(bench.put_cuda(document, RUN)))
    assert bench.read_cuda(written) == RUN
    assert written["fp32_gain"] == 1.2
    assert written["cuda_gain_fitting"] == pytest.approx(1.5)
    assert written["rounds"]["parts"] == [1]


def test_the_table_names_the_device_or_says_that_there_was_none() -> None:
    measured = bench.tabulate_cuda(RUN).render_markdown()
    assert "some card, 52 MB of L2" in measured
    assert (
        "| 1 | 24.00 | 9 | 2.00 | 2.80 | 12,000.00 | 8,571.43 | 1.40 (1.40 to 1.40) |" in measured
    )
    assert "| not measured: no CUDA device |" in bench.tabulate_cuda(None).render_markdown()


def test_the_page_shows_the_last_results() -> None:
    text = PAGE.read_text()
    assert fill_page(text, list_tables(json.loads(RESULTS.read_text()))) == text
    assert ("not measured: no CUDA device" in text) == (cache_fit.read_last_cuda() is None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (FOLDER / "cache_fit.json").read_bytes()
    monkeypatch.setattr("sys.argv", ["cache_fit_cuda.py"])
    assert bench.main() == 0
    out, err = capsys.readouterr()
    assert "not measured: no CUDA device" in out
    assert err == "the CUDA part is not measured: no CUDA device\n"
    assert (FOLDER / "cache_fit.json").read_bytes() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_device_is_measured() -> None:
    run = bench.measure_cuda(1, (8,))
    assert run is not None
    assert [layer.tokens for layer in run.layers] == list(bench.TOKENS)
    assert all(layer.gain.median > 0.5 for layer in run.layers)
