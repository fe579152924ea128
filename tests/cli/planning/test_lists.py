"""Lists and tables as the command line writes them."""

from __future__ import annotations

import pytest

from partwise.cli.planning.lists import (
    read_granules,
    read_ids,
    read_percentages,
    read_streams,
    read_types,
)
from partwise.errors import UsageError


def test_percentages_are_numbers_as_they_are_written() -> None:
    assert read_percentages("33.3, 66.7") == [33.3, 66.7]
    assert [type(value) for value in read_percentages("70,30")] == [int, int]
    assert read_percentages("a=70,b:1=30") == {"a": 70, "b:1": 30}


def test_tables_are_read_by_name() -> None:
    assert read_types("mlp=a+b:1,head=c") == {"mlp": ["a", "b:1"], "head": ["c"]}
    assert read_granules("mlp_unit=32,kv_group=1") == {"mlp_unit": 32, "kv_group": 1}


def test_identifiers_are_gathered_by_layers_kind_and_server() -> None:
    texts = ["0:4/mlp_unit/a=0:3,7", "0:4/mlp_unit/a=9", "0:4/mlp_unit/10.0.0.5:70=3:7", "*/k/a=0"]
    assert read_ids(texts) == {
        "0:4": {"mlp_unit": {"a": "0:3,7,9", "10.0.0.5:70": "3:7"}},
        "*": {"k": {"a": "0"}},
    }


def test_streams_ascend_and_default_to_one() -> None:
    assert read_streams("64, 1,8") == [1, 8, 64]
    assert read_streams(None) == [1]
    for text in ("1,", "0", "1.5", "8,8", "one"):
        with pytest.raises(UsageError, match="give whole numbers from 1 on"):
            read_streams(text)
