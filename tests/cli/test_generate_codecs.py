"""`partwise generate` with links that pack what they carry: the option, the notices, the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from partwise.cli.main import main
from partwise.distributor import balance_layers, encode_plan
from partwise.distributor.codecs import with_codec
from partwise.model import open_model

OPTIONS = ("Once upon", "--raw", "--max-tokens", "6")


@pytest.fixture
def generate(tiny_llama: Path, thread_servers, capsys: pytest.CaptureFixture[str]):
    """Run it on two servers; what it wrote to stdout and stderr."""

    def run(*words: str) -> tuple[str, str]:
        assert main(["generate", str(tiny_llama), *OPTIONS, *words, *thread_servers.options]) == 0
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


@pytest.fixture
def packed_plan(tiny_llama: Path, thread_servers, tmp_path: Path) -> str:
    """A plan for the servers whose link carries int8."""
    servers = thread_servers.options[thread_servers.options.index("--servers") + 1]
    plan = with_codec(balance_layers(open_model(tiny_llama), servers.split(",")), "int8")
    path = tmp_path / "plan.json"
    path.write_bytes(encode_plan(plan))
    return str(path)


def link_of(out: str) -> dict:
    first, last = json.loads(out)["parts"]
    assert last["links"] == []
    (link,) = first["links"]
    return link


def test_links_carry_fp32_unless_asked_and_the_report_says_what_they_carried(generate) -> None:
    out, err = generate("--json")
    assert "which changes results" not in err
    plain = link_of(out)
    assert (plain["codec"], plain["moved_bytes"]) == ("fp32", plain["plain_bytes"])
    out, err = generate("--json", "--codec", "int8")
    assert "note: links part0 > part1 carry int8, which changes results: --codec fp32 keeps" in err
    packed = link_of(out)
    assert packed["codec"] == "int8"
    assert packed["plain_bytes"] == plain["plain_bytes"]
    assert packed["moved_bytes"] < plain["moved_bytes"]
    assert packed["pack_us_per_frame"] > 0 < packed["unpack_us_per_frame"]


def test_times_and_links_have_tables_of_their_own(generate) -> None:
    _, err = generate("--codec", "bf16")
    lines = err.splitlines()
    times = next(i for i, line in enumerate(lines) if "exposed communication s" in line)
    assert [line.split()[0] for line in lines[times + 2 : times + 4]] == ["part0", "part1"]
    links = next(i for i, line in enumerate(lines) if "of fp32 %" in line)
    assert lines[links + 2].split()[:4] == ["part0", ">", "part1", "bf16"]
    assert "50.00" in lines[links + 2]


def test_the_codecs_of_a_plan_are_used_and_an_option_overrides_them(
    generate, packed_plan: str
) -> None:
    assert link_of(generate("--json", "--plan", packed_plan)[0])["codec"] == "int8"
    out, err = generate("--json", "--plan", packed_plan, "--codec", "fp32")
    assert link_of(out)["codec"] == "fp32"
    assert "changes results" not in err


def test_deterministic_runs_send_fp32_and_say_so(generate, packed_plan: str) -> None:
    out, err = generate("--json", "--plan", packed_plan, "--deterministic")
    assert link_of(out)["codec"] == "fp32"
    assert "note: --deterministic sends fp32 over every link, not int8 as planned" in err


def test_deterministic_and_a_codec_that_changes_bits_are_refused(
    tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(tiny_llama), *OPTIONS, "--deterministic", "--codec", "int8"]
    assert main(words) == 2
    assert "--deterministic needs fp32 on every link" in capsys.readouterr().err
