"""`partwise generate` from its arguments to its two streams, on servers in threads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from partwise.cli.generate import NAME
from partwise.cli.main import main
from partwise.cli.notices import warn_of_plain_text
from partwise.distributor import balance_layers, encode_plan
from partwise.model import open_model
from partwise.remote.transport import Address

DOCUMENT_KEYS = {
    "text",
    "token_ids",
    "prompt_tokens",
    "finish_reason",
    "start_s",
    "first_token_s",
    "decode_tokens_per_s",
    "parts",
    "buffers",
}
PART_KEYS = {
    "name",
    "layers",
    "weight_bytes",
    "resident_bytes",
    "compute_ms_per_token",
    "wait_ms_per_token",
    "hop_ms_per_token",
    "sent_bytes_per_token",
    "compute_s",
    "wait_s",
    "exposed_s",
    "hidden_s",
    "links",
    "exchange",
}
LINK_KEYS = {
    "source",
    "target",
    "codec",
    "frames",
    "plain_bytes",
    "moved_bytes",
    "pack_us_per_frame",
    "unpack_us_per_frame",
    "beside_percent",
}


@pytest.fixture
def generate(tiny_llama: Path, thread_servers, capsys: pytest.CaptureFixture[str]):
    """Run it on two servers; what it wrote to stdout and stderr."""

    def run(*words: str, model: Path = tiny_llama) -> tuple[str, str]:
        assert main([NAME, str(model), *words, *thread_servers.options]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def reference_ids(model: Path, prompt: str, num_tokens: int) -> list[int]:
    """What transformers generates after the raw ``prompt``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(model)(prompt, return_tensors="pt").input_ids
    out = network.generate(ids, max_new_tokens=num_tokens, do_sample=False)
    return out[0, ids.shape[1] :].tolist()


def test_the_json_document_holds_exactly_what_was_promised(generate, tiny_llama: Path) -> None:
    out, err = generate("Once upon a time", "--raw", "--max-tokens", "12", "--json")
    document: dict[str, Any] = json.loads(out)
    assert set(document) == DOCUMENT_KEYS
    assert document["token_ids"] == reference_ids(tiny_llama, "Once upon a time", 12)
    assert document["finish_reason"] == "length"
    assert 0 < document["first_token_s"] < 60
    assert document["start_s"] > 0
    assert document["decode_tokens_per_s"] > 0
    assert "Once" not in err
    parts = document["parts"]
    assert [part["name"] for part in parts] == ["part0", "part1"]
    assert all(set(part) == PART_KEYS for part in parts)
    assert parts[0]["layers"].startswith("embedding + blocks 0:")
    parameters = open_model(tiny_llama).num_parameters
    assert sum(part["weight_bytes"] for part in parts) == 4 * parameters
    assert all(part["compute_ms_per_token"] > 0 for part in parts)
    assert all(part["resident_bytes"] > part["weight_bytes"] for part in parts)


def test_figures_that_one_token_cannot_give_are_null(generate) -> None:
    out, _ = generate("Once upon", "--raw", "--max-tokens", "1", "--json")
    document = json.loads(out)
    assert len(document["token_ids"]) == 1
    assert document["decode_tokens_per_s"] is None
    assert document["parts"][0]["compute_ms_per_token"] is None


def test_the_text_streams_to_stdout_and_the_figures_to_stderr(
    generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    options = ("Once upon", "--raw", "--max-tokens", "30")
    text = json.loads(generate(*options, "--json")[0])["text"]
    original = sys.stdout.write
    monkeypatch.setattr(sys.stdout, "write", lambda piece: written.append(piece) or original(piece))
    out, err = generate(*options)
    assert out == text + "\n"
    assert len([piece for piece in written if piece]) > 3
    assert "loading bytes" in err
    table = err[err.index("part   server") :].splitlines()
    assert table[0].split()[:3] == ["part", "server", "layers"]
    assert [line.split()[0] for line in table[2:4]] == ["part0", "part1"]
    last = table[-1]
    assert "8 prompt tokens; 30 tokens (length); ready after" in last
    assert last.endswith("tokens/s")


def test_a_prompt_comes_from_stdin(generate, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--raw", "--max-tokens", "5", "--json")
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon\n"))
    piped = json.loads(generate("-", *options)[0])
    given = json.loads(generate("Once upon\n", *options)[0])
    assert piped["token_ids"] == given["token_ids"]


def test_chat_is_the_default_where_the_model_has_a_template(generate) -> None:
    options = ("--max-tokens", "5", "--json")
    out, err = generate("hi", *options)
    chosen, chat, raw = (
        json.loads(text)
        for text in (
            out,
            generate("hi", "--chat", *options)[0],
            generate("hi", "--raw", *options)[0],
        )
    )
    assert "template" not in err
    assert chosen["token_ids"] == chat["token_ids"]
    assert chosen["prompt_tokens"] == chat["prompt_tokens"] > raw["prompt_tokens"]


def test_a_model_without_a_template_gets_raw_text_and_a_notice(
    generate, tiny_llama: Path, tmp_path: Path
) -> None:
    model = tmp_path / "plain"
    model.mkdir()
    for path in tiny_llama.glob("*.*"):
        if path.is_file() and path.name != "chat_template.jinja":
            (model / path.name).symlink_to(path)
    options = ("hi", "--max-tokens", "3")
    assert (
        "plain has no chat template, so the prompt is raw text"
        in generate(*options, model=model)[1]
    )
    assert "template" not in generate(*options, "--raw", model=model)[1]


def test_max_tokens_end_at_the_context(generate) -> None:
    out, _ = generate("x" * 505, "--raw", "--max-tokens", "100", "--json")
    document = json.loads(out)
    assert document["prompt_tokens"] + len(document["token_ids"]) == 512


def test_a_plan_says_which_server_holds_what(
    generate, tiny_llama: Path, tmp_path: Path, thread_servers
) -> None:
    path = tmp_path / "plan.json"
    swapped = thread_servers.addresses[::-1]
    path.write_bytes(encode_plan(balance_layers(open_model(tiny_llama), swapped)))
    _, err = generate("hi", "--max-tokens", "3", "--plan", str(path))
    servers = [line.split()[1] for line in err.splitlines() if line.startswith("part")]
    assert servers[1:3] == list(swapped)


def test_an_answer_that_the_context_cuts_short_is_announced(generate) -> None:
    prompt = "x" * 508
    out, err = generate(prompt, "--raw", "--max-tokens", "4", "--json")
    assert "note:" not in err
    out, err = generate(prompt, "--raw", "--max-tokens", "1000", "--json")
    assert len(json.loads(out)["token_ids"]) <= 4
    note = "note: at most 4 tokens instead of 1,000: the prompt has 508, the context of"
    assert err.count(note) == 1


def test_servers_beyond_this_machine_get_one_notice(capsys: pytest.CaptureFixture[str]) -> None:
    near, far = Address("127.0.0.1", 7), Address("10.0.0.5", 7)
    warn_of_plain_text(SimpleNamespace(addresses={"a": near}))
    assert capsys.readouterr().err == ""
    warn_of_plain_text(SimpleNamespace(addresses={"a": near, "b": far, "c": far}))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "prove the token when they connect" in err
    assert "neither encrypted nor protected against changes" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--raw", "--chat"], "not allowed with"),
        (["--parts", "0"], "--parts is 0, it must be at least 1"),
        (["--threads", "0"], "--threads is 0"),
        (["--max-tokens", "-1"], "--max-tokens is -1"),
        (["--step-timeout", "0"], "--step-timeout is 0: give seconds above 0"),
        (["--step-timeout", "nan"], "--step-timeout is nan"),
        (["--step-timeout", "inf"], "--step-timeout is inf"),
        (
            ["--step-timeout", "1e10"],
            "--step-timeout is 1e+10: give seconds above 0, at most 86400",
        ),
        (["--threads", "1025"], "--threads is 1025, it must be at most 1024"),
        (["--parts", "99999999999"], "--parts is 99999999999, it must be at most 1024"),
        (["--servers", "a:1"], "--servers needs --token-file"),
        (["--token-file", "t"], "--token-file is for --servers"),
        (["--servers", "", "--token-file", "t"], "'' is not HOST:PORT"),
        (["--servers", "a", "--token-file", "t"], "'a' is not HOST:PORT"),
        (["--servers", "a:1,a:1", "--token-file", "t"], "given twice"),
        (["--servers", "a:1", "--token-file", "t", "--parts", "2"], "2 parts and 1 servers"),
        (["--servers", "a:1", "--token-file", "t", "--pin"], "--pin is for servers of this"),
        (["--servers", "a:1", "--token-file", "t", "--plan", "PLAN"], "1 servers and a plan of 2"),
        (
            ["--servers", "a:1,b:2,c:3", "--token-file", "t", "--plan", "PLAN"],
            "3 servers and a plan of 2 parts: give its servers, a:1,b:2",
        ),
        (["--plan", "PLAN"], "the plan is for servers that listen: give --servers a:1,b:2"),
        (["--plan", "PLAN", "--parts", "3"], "3 parts and a plan of 2"),
        (["--servers", "127.0.0.1:1,b:2", "--token-file", "t"], "this machine alone and b:2 is"),
        (["--device", "gpu"], "the device 'gpu' is not known: give cpu, cuda or cuda:N"),
        (
            ["--device", "cuda", "--servers", "a:1", "--token-file", "PLAN"],
            "the device cuda is for servers of this machine: leave it out, and start the others",
        ),
    ],
)
def test_options_that_mean_nothing_are_wrong_usage(
    words: list[str],
    says: str,
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(encode_plan(balance_layers(open_model(tiny_llama), ["a:1", "b:2"])))
    words = [str(plan) if word == "PLAN" else word for word in words]
    assert main([NAME, str(tiny_llama), "hi", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


def test_the_process_that_generates_imports_no_framework() -> None:
    code = "import sys, partwise.cli.generate, partwise.deployment, partwise.cli.progress\n"
    code += "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
