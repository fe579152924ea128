"""Calibration and evaluation never share text, and both have enough of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from partwise.compress.text import BUILT_IN, read_text, split_text
from partwise.errors import CompressionError


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_the_last_tenth_is_held_out() -> None:
    text = "a" * 900 + "z" * 100
    texts = split_text("letters", text, encode, window_tokens=40, num_evaluation=9)
    assert {i for window in texts.calibration for i in window} == {ord("a")}
    assert {i for window in texts.evaluation for i in window} == {ord("z")}
    assert len(texts.calibration) == 8
    assert len(texts.evaluation) == 2  # more than two whole ones do not fit
    assert texts.num_evaluated == 2 * 39


def test_windows_are_spread_over_their_part() -> None:
    text = "".join(chr(i) for i in range(1000, 2000))
    texts = split_text("numbers", text, encode, window_tokens=50, num_calibration=3)
    assert [window[0] for window in texts.calibration] == [1000, 1425, 1850]
    assert texts.calibration[-1][-1] == 1899
    assert texts.evaluation[-1][-1] == 1999


def test_a_text_that_is_too_short_is_refused_with_what_is_needed() -> None:
    with pytest.raises(CompressionError, match=r"letters is too short.* has 50 tokens, .*80 are"):
        split_text("letters", "a" * 500, encode, window_tokens=40)


def test_the_text_that_ships_with_python_is_long_enough() -> None:
    source, text = read_text(None)
    assert source == BUILT_IN
    assert len(text) > 300_000


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"No such file.*; give a UTF-8 text file"):
        read_text(tmp_path / "missing.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(CompressionError, match="is not UTF-8 text"):
        read_text(tmp_path / "bytes")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(CompressionError, match=r"calibration text .*empty is empty: give a longer"):
        read_text(tmp_path / "empty")
