"""Sizes, tables and progress as text."""

from __future__ import annotations

import pytest

from partwise.cli.format import format_bytes, format_json, format_table
from partwise.cli.progress import Progress


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.50 KiB"), (3 << 29, "1.50 GiB")],
)
def test_a_size_is_given_in_the_largest_unit_it_fills(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_numbers_are_aligned_right_and_words_left() -> None:
    table = format_table(("layer", "MiB"), [("a", 1234), ("norm", 2.5), ("c", None)])
    assert table.splitlines() == [
        "layer    MiB",
        "-----  -----",
        "a      1,234",
        "norm    2.50",
        "c",
    ]


def test_without_a_terminal_each_step_is_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress() as progress:
        for step in ("reading", "writing"):
            for done in range(4):
                progress.report(step, done, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["reading (3)", "writing (3)"]


def test_on_a_terminal_a_bar_reaches_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress() as progress:
        progress.report("reading", 0, 3)
        progress.report("reading", 3, 3)
    assert "3/3" in capsys.readouterr().err


def test_a_document_holds_nothing_that_json_does_not_have() -> None:
    assert format_json({"a_s": 1.5}) == '{\n "a_s": 1.5\n}'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            format_json({"a_s": value})
