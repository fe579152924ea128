"""`partwise plan` from its arguments to its two streams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partwise.cli.main import main
from partwise.distributor import read_plan, verify_plan
from partwise.model import open_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied gpt2 with a context longer than the default."""
    from transformers import GPT2Config, GPT2LMHeadModel

    path = tmp_path_factory.mktemp("models") / "tiny"
    config = GPT2Config(vocab_size=40, n_embd=24, n_layer=4, n_head=4, n_positions=5000)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


def test_the_table_names_servers_layers_and_sizes(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(directory), "--parts", "2"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "1 sequence of 4,096 tokens (assumed; set --context)" in lines[0]
    assert "weights GiB  KV GiB  read per token %" in lines[2]
    assert lines[4].startswith("local-0  part0  embedding + blocks 0:2")
    assert lines[5].startswith("local-1  part1  blocks 2:4 + norm + head")
    assert lines[6].startswith("total")
    # What is said of the plan stands below its table; nothing is said of the run.
    assert lines[-3].startswith("note: transformer.wte.weight is tied and held by part0 and part1")
    assert lines[-3].endswith("3.75 KiB more")
    assert lines[-1].startswith("runner: torch in fp32, because the onnx runner does not cover")
    assert err == ""


def test_a_context_that_was_asked_for_is_not_assumed(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for servers in (["--parts", "2"], ["--cluster", "home"]):
        heads = []
        for words in ([], ["--context", "64"]):
            assert main(["plan", str(directory), *servers, *words]) == 0
            heads.append(capsys.readouterr().out.splitlines()[0])
        assert "4,096 tokens (assumed; set --context)" in heads[0]
        assert "64 tokens" in heads[1]
        assert "assumed" not in heads[1]


def test_a_plan_says_what_passes_take_with_and_without_fusion(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for servers in (["--parts", "2"], ["--cluster", "local-2", "--streams", "1"]):
        assert main(["plan", str(directory), *servers, "--context", "500"]) == 0
        (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("buffers"))
        assert " in a pass of 128 tokens after 372, " in line
        assert " in a pass of 1 token after 499, " in line
        assert line.endswith(" without fusion")
        assert main(["plan", str(directory), *servers, "--context", "500", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        parts = document["parts"] if "parts" in document else document["plans"][0]["parts"]
        for part in parts:
            chunk, token = part["buffers"]
            assert (chunk["num_tokens"], chunk["past_tokens"]) == (128, 372)
            assert (token["num_tokens"], token["past_tokens"]) == (1, 499)
            assert 0 < chunk["fused_bytes"] < chunk["single_steps_bytes"]


def test_the_json_adds_up(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--parts", "3", "--context", "100", "--sequences", "5", "--json"]
    assert main(["plan", str(directory), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    model = open_model(directory)
    parts = document["parts"]
    assert [row["server"] for row in parts] == ["local-0", "local-1", "local-2"]
    assert [parts[0]["start_layer"], parts[-1]["stop_layer"]] == [0, len(model.layers)]
    assert document["weight_bytes"] == sum(row["weight_bytes"] for row in parts)
    assert document["weight_bytes"] == 4 * (model.num_parameters + 40 * 24)
    assert document["kv_bytes"] == sum(row["kv_bytes"] for row in parts) == 4 * 4 * 48 * 100 * 5
    assert sum(row["read_share_percent"] for row in parts) == pytest.approx(100)
    assert document["replicated"] == [
        {
            "parameter": "transformer.wte.weight",
            "parts": ["part0", "part2"],
            "extra_weight_bytes": 4 * 40 * 24,
        }
    ]


def test_a_plan_in_bf16_takes_half_of_the_bytes_and_says_why_torch_computes_it(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {}
    for precision in ("fp32", "bf16"):
        words = ["plan", str(directory), "--parts", "1", "--precision", precision]
        assert main([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        sizes[precision] = (document["weight_bytes"], document["kv_bytes"])
        assert main(words) == 0
        out = capsys.readouterr().out
        assert f"{precision} weights, {precision} KV cache for 1 sequence" in out
    assert "runner: torch in bf16, because it alone computes bf16" in out
    assert (document["runner"], document["runner_reason"]) == ("torch", "it alone computes bf16")
    assert tuple(2 * size for size in sizes["bf16"]) == sizes["fp32"]


def test_one_part_holds_nothing_twice(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(directory), "--parts", "1"]) == 0
    streams = capsys.readouterr()
    assert "note" not in streams.out
    assert streams.err == ""


def test_the_plan_written_is_one_for_the_model(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert main(["plan", str(directory), "--parts", "2", "--out", str(out)]) == 0
    plan = read_plan(out)
    verify_plan(plan, open_model(directory), ["local-0", "local-1"])
    assert len(plan.parts) == 2


def test_a_plan_for_servers_that_listen_names_them(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    words = ["plan", str(directory), "--servers", "10.0.0.5:7070, [fd00::6]:7070", "--out", out]
    assert main([str(word) for word in words]) == 0
    assert [part.server for part in read_plan(out).parts] == ["10.0.0.5:7070", "[fd00::6]:7070"]
    table = capsys.readouterr().out.splitlines()
    assert table[4].startswith("10.0.0.5:7070   part0")
    assert "2 parts" in table[0]


def test_generate_takes_the_plan_for_the_servers_that_it_names(
    tiny_llama: Path, thread_servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    servers = ",".join(thread_servers.addresses[::-1])
    assert main(["plan", str(tiny_llama), "--servers", servers, "--out", str(out)]) == 0
    words = ["generate", str(tiny_llama), "hi", "--max-tokens", "2", "--plan", str(out)]
    capsys.readouterr()
    assert main([*words, *thread_servers.options]) == 0
    rows = [line.split() for line in capsys.readouterr().err.splitlines()]
    used = [row[1] for row in rows if row and row[0] in ("part0", "part1")]
    assert used[:2] == list(thread_servers.addresses[::-1])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--parts", "8"],
            1,
            "8 parts are more than the 7 layers of tiny: ask for 7 parts or fewer",
        ),
        (["--parts", "99999999999"], 1, "99999999999 parts are more than the 7 layers of tiny"),
        (["--parts", "0"], 2, "--parts is 0, it must be at least 1"),
        (["--parts", "2", "--context", "0"], 2, "--context is 0, it must be at least 1"),
        (["--parts", "2", "--sequences", "-1"], 2, "--sequences is -1, it must be at least 1"),
        (["--parts", "2", "--context", "5001"], 2, "--context is 5001, tiny reads 5000 tokens"),
        (["--parts", "2", "--out", "/absent/plan.json"], 1, "cannot write the plan to /absent"),
        ([], 2, "one of the arguments --parts --servers --cluster is required"),
        (["--parts", "2", "--servers", "a:1,b:2"], 2, "not allowed with"),
        (["--servers", "a:1,b"], 2, "'b' is not HOST:PORT"),
        (["--servers", "a:1,a:1"], 2, "a server is given twice in a:1,a:1"),
        (["--servers", "127.0.0.1:1,a:1"], 2, "127.0.0.1:1 is an address of this machine alone"),
    ],
)
def test_bad_input_is_one_line(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    assert main(["plan", str(directory), *options]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
