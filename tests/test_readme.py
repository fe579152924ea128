"""The README tells the truth: its Python runs, its commands run, its tree exists."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from partwise.cli.main import build_parser, load_commands, main
from partwise.cluster.presets import preset
from partwise.cluster.toml_file import write_host

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for name, text in blocks if name == language]


def commands() -> list[list[str]]:
    """The words of every partwise command, without the first."""
    lines = [shlex.split(line, comments=True) for block in code_blocks("sh")
             for line in block.splitlines()]  # fmt: skip
    return [words[1:] for words in lines if words[:1] == ["partwise"]]


def local_commands() -> list[list[str]]:
    """Those that need no second machine."""
    return [words for words in commands() if any(word.startswith("models/") for word in words)]


def tree() -> list[str]:
    """The paths that the tree names, from the root of the checkout."""
    (drawn,) = (block for block in code_blocks("") if "├──" in block)
    paths, folders = [], []
    for line in drawn.splitlines():
        if not (found := re.match(r"([│├└─ ]*)([\w./-]+)", line)):
            continue
        depth, name = len(found[1]) // 4, found[2]
        folders = [*folders[:depth], name]
        paths.append("/".join(folder.rstrip("/") for folder in folders))
    return paths


FIGURES = {
    "int4, 1 part, one stream over onnxruntime-genai, one thread each": "fast.int4_over_genai",
    "int8, the same": "fast.int8_over_genai",
    "reading a prompt of 512 tokens over onnxruntime-genai, int4 and int8": (
        "fast.prefill_over_genai"
    ),
    "int4, 2 parts over 1 part, one stream": "fast.two_parts_one_stream",
    "int4, 2 parts at 8 streams over 1 part at one": "fast.two_parts_8_streams",
    "int4, 2 parts at 16 streams over 1 part at one": "fast.two_parts_16_streams",
    "int4, 2 parts over 1 part with one thread, same batching, the less of 8 and 16 streams": (
        "fast.two_parts_over_one_thread"
    ),
    "int4, 2 parts over 1 part with two threads, the same": "fast.two_parts_over_two_threads",
    "int8 parts as they are served: change of the perplexity (SmolLM2, dequantised Q4_1)": (
        "accuracy.int8_part_perplexity_change"
    ),
    "int4 parts as they are served: perplexity over that of onnxruntime-genai's int4": (
        "accuracy.int4_part_over_genai"
    ),
    "int4, from the command to the first token, second start": "int4_server.second_start_s",
    "an fp32 part of at most 12 MiB that stays in cache over its turn in a chain, at least": (
        "cache_fit.fp32_gain_least_fitting"
    ),
    "the same in int8, at least (no bound)": "cache_fit.int8_gain_least_fitting",
    "2 parts over 1 part, one stream": "decode.two_parts_one_stream",
    "2 parts over 1 part with one thread, four streams, same batching": (
        "decode.two_parts_four_streams"
    ),
    "2 parts over 1 part with two threads, four streams, same batching": (
        "decode.two_parts_over_two_threads"
    ),
    "1 part over transformers' `generate`, one thread": "decode.one_part_over_transformers",
    "what a part adds to a raw round trip of 4 KB (two processors, see decision 0007)": (
        "hop.added_us_4k"
    ),
    "the same at 256 KB": "hop.added_ratio_256k",
    "warm, from the command to the first token, 3 parts": "first_token.first_token_s",
    "int8 weights: change of the perplexity (SmolLM2, dequantised Q4_1)": (
        "accuracy.int8_perplexity_change"
    ),
    "int4 weights, rounded to nearest: perplexity over that of onnxruntime-genai's int4": (
        "accuracy.int4_rtn_over_genai"
    ),
    "int8 links, 3 parts: change of the perplexity (SmolLM2, dequantised Q4_1)": (
        "link_codecs.change_3_parts_int8"
    ),
    "int8 links: bytes over those of fp32": "link_codecs.bytes_ratio_3_parts_int8",
    "a wide random llama, 2 parts, 16 streams over 100 Mbit/s: the chosen codec over fp32": (
        "link_codecs.wide_over_fp32"
    ),
    "error of predicted tokens/s over 24 configurations, median": "plan.prediction_error_median",
    "the same, nine of ten are better": "plan.prediction_error_p90",
}
"""The rows of the table of figures, and the file and key in bench/results that they show."""


def shown_figures() -> dict[str, str]:
    """The number in each row of the table of figures, as it is written there."""
    section = README.split("\n## Figures\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (-?[\d.]+)\D* \| .* \|$", section, re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize("row", FIGURES)
def test_a_figure_of_the_readme_is_the_one_that_was_measured(row: str) -> None:
    name, key = FIGURES[row].split(".")
    measured = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())[key]
    shown = shown_figures()[row]
    num_decimals = len(shown.partition(".")[2])
    assert float(shown) == round(measured, num_decimals), f"{name}.json: {key} is {measured}"


def test_every_figure_of_the_readme_is_compared() -> None:
    section = README.split("\n## Figures\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    assert len(table) - 2 == len(FIGURES)  # without the heading and the rule below it
    assert shown_figures().keys() == FIGURES.keys()


def test_the_picture_of_a_tokens_way_shows_the_blocks_of_the_plan(
    smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (picture,) = (block for block in code_blocks("") if "part0" in block)
    assert main(["plan", str(smollm2), "--parts", "3"]) == 0
    planned = re.findall(r"blocks \d+:\d+", capsys.readouterr().out)
    assert len(planned) == 3
    assert re.findall(r"blocks \d+:\d+", picture) == planned


def test_the_python_of_the_readme_runs_as_it_stands(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for_models, for_modules = code_blocks("python")
    exec(compile(for_models, "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    assert "Paris" in said
    assert "part2" in said
    exec(compile(for_modules, "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    assert "tensor([" in said
    assert "('part0', 'part1'): 2048" in said


def test_the_readme_shows_commands() -> None:
    assert len(local_commands()) >= 4
    assert len(commands()) >= 6
    assert {words[0] for words in commands()} >= {"model", "plan", "generate", "server"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_readme_has_the_options_that_it_shows(words: list[str]) -> None:
    build_parser(load_commands()).parse_args(words)


@pytest.mark.parametrize(
    "words", [words for words in local_commands() if words[0] != "generate"], ids=" ".join
)
def test_a_command_of_the_readme_that_starts_no_server_runs(
    words: list[str], smollm2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(smollm2.parent)
    (tmp_path / "host.toml").write_text(write_host(preset("local-2").hosts[0]))  # as a probe does
    monkeypatch.chdir(tmp_path)  # a command may write a file
    assert main(words) == 0


def test_a_generating_command_of_the_readme_runs(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = (words for words in local_commands() if "--json" in words)
    assert main([*words, "--max-tokens", "4"]) == 0
    assert len(json.loads(capsys.readouterr().out)["token_ids"]) == 4


def test_what_the_tree_of_the_readme_names_exists() -> None:
    paths = tree()
    assert "src/partwise/model/families" in paths
    assert "bench" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
