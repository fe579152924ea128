"""`partwise model` says what a model consists of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from partwise.cli.main import main


def stored_elements(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", "np") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_llama_tied", "tiny_gpt2"])
def test_json_counts_what_the_file_stores(
    model: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = request.getfixturevalue(model)
    assert main(["model", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_parameters"] == stored_elements(folder)
    assert document["weight_bytes"] == 4 * stored_elements(folder)
    assert document["num_layers"] == len(document["layers"])
    per_layer = [layer["kv_bytes_per_token"] for layer in document["layers"]]
    assert document["kv_bytes_per_token"] == sum(per_layer) > 0


def test_json_names_the_aliases_of_a_tied_parameter(
    tiny_llama_tied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["model", str(tiny_llama_tied), "--json"])
    tied = json.loads(capsys.readouterr().out)["tied"]
    assert tied == {"model.embed_tokens.weight": ["lm_head.weight"]}


def test_the_table_has_a_line_for_each_layer_and_units_in_its_header(
    tiny_llama_tied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", str(tiny_llama_tied)]) == 0
    table, totals = capsys.readouterr().out.split("\n\n")
    header, _, *rows = table.splitlines()
    assert " ".join(header.split()) == "layer kind parameters fp32 MiB neurons KV bytes per token"
    assert len(rows) == 1 + 6 + 2
    assert "tied: lm_head.weight = model.embed_tokens.weight" in totals


def test_a_directory_without_a_model_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("partwise: ")
    assert err.count("\n") == 1
